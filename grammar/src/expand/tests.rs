//! Tables of expansions; results as bash and BuildKit give them.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn env() -> BTreeMap<String, String> {
    [
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("KOREAN", "한국어"),
        ("EMPTY", ""),
        ("str", "foobarbaz"),
        ("file", "archive.tar.gz"),
        ("s", "a*b*c"),
        ("path", "/a/b/c"),
        ("lines", "ab\ncd"),
        ("dollar", "$0"),
        ("space", "abc  def"),
        ("leading", "  ab c"),
        ("trailing", "ab c   "),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect()
}

/// Word and result; `!text` is an error that holds the text.
const WORDS: &[(&str, &str)] = &[
    ("hello", "hello"),
    ("he'll'o", "hello"),
    ("he'llo", "!single-quote"),
    ("he\\'llo", "he'llo"),
    ("he\\\\'llo", "!single-quote"),
    ("abc\\tdef", "abctdef"),
    ("\"abc\\tdef\"", "abc\\tdef"),
    ("'abc\\tdef'", "abc\\tdef"),
    ("hello\\", "hello"),
    ("hello\\\\", "hello\\"),
    ("\"hello", "!double-quote"),
    ("\"hello\\\"", "!double-quote"),
    ("\"hel'lo\"", "hel'lo"),
    ("'hello\\'", "hello\\"),
    ("$", "$"),
    ("he$1x", "hex"),
    ("he$.x", "he$.x"),
    ("he$PWD.", "he/home."),
    ("he\\$PWD", "he$PWD"),
    ("he\\\\$PWD", "he\\/home"),
    ("\"he\\$PWD\"", "he$PWD"),
    ("'he$PWD'", "he$PWD"),
    ("\"\\\"\\\\\\$\"", "\"\\$"),
    ("he\\${}", "he${}"),
    ("he${}", "!bad substitution"),
    ("${:}", "!bad substitution"),
    ("${{PWD}", "!bad substitution"),
    ("${", "!missing '}'"),
    ("he${hi}xx", "hexx"),
    ("he${PWD", "!missing '}'"),
    ("he${PWD}", "he/home"),
    ("he${.}", "!modifier"),
    ("he${XXX:-000}xx", "he000xx"),
    ("he${PWD:-000}xx", "he/homexx"),
    ("he${XXX:-$PWD}xx", "he/homexx"),
    ("he${XXX:-${PWD:-yyy}}xx", "he/homexx"),
    ("he${XXX:-${YYY:-yyy}}xx", "heyyyxx"),
    ("he${XXX:YYY}", "!modifier (:Y)"),
    ("he${XXX:+${PWD}}xx", "hexx"),
    ("he${PWD:+${SHELL}}xx", "hebashxx"),
    ("he${PWD:=000}xx", "!modifier (:=)"),
    ("he${PWD:+${PWD}:}xx", "he/home:xx"),
    ("he${XXX:-\\$PWD:}xx", "he$PWD:xx"),
    ("he${XXX:-\\${PWD}z}xx", "he${PWDz}xx"),
    ("${EMPTY-d}|${EMPTY:-d}|${XXX-d}", "|d|d"),
    ("${EMPTY+d}|${EMPTY:+d}|${XXX+d}", "d||"),
    ("${EMPTY?}|${PWD:?}", "|/home"),
    ("${EMPTY:?}", "!EMPTY: is not allowed to be empty"),
    ("${XXX?}", "!XXX: is not allowed to be unset"),
    ("${XXX:?say $PWD}", "!XXX: say /home"),
    ("안녕$KOREAN", "안녕한국어"),
    ("${aaa}}", "}"),
    ("${aaa:-bbb {foo}", "bbb {foo"),
    ("${aaa:-bbb ${foo}", "!missing '}'"),
    ("$001aaa", "aaa"),
    ("${999:-bbb}aaa", "bbbaaa"),
    ("$@@@", "@@"),
    ("${*:-bbb}", "bbb"),
    ("${#}|${-:-b}|$$|${!}", "|b||"),
    ("${!PWD}", "!modifier"),
    ("${#PWD}", "!modifier"),
    ("${PWD^^}", "!modifier (^)"),
    ("${PWD:0:2}", "!modifier (:0)"),
    ("${str#f*b}|${str##f*b}", "arbaz|az"),
    ("${str%b*}|${str%%b*}", "foobar|foo"),
    ("${file%.*}|${file%%.*}|${file#*.}|${file##*.}", "archive.tar|archive|tar.gz|gz"),
    ("${path##*/}|${path%/*}", "c|/a/b"),
    ("${s#a\\*}|${s//\\*/-}", "b*c|a-b-c"),
    ("${str#?o}|${str%?z}", "obarbaz|foobarb"),
    ("${str#x}|${XXX#x}", "foobarbaz|"),
    ("${str:#x}", "!modifier (:#)"),
    ("${str:%x}", "!modifier (:%)"),
    ("${str#\\x}", "!invalid pattern (\\x) in substitution: invalid escape '\\x'"),
    ("${str/b/X}|${str//b/X}", "fooXarbaz|fooXarXaz"),
    ("${str/b*/X}|${str/b?/X}", "fooX|fooXrbaz"),
    ("${str/x/X}", "foobarbaz"),
    ("${str/o/}", "fobarbaz"),
    ("${str/o}", "!missing '/' in ${}"),
    ("${str/o/x", "!missing '}'"),
    ("${path//\\//_}", "_a_b_c"),
    ("${path/\\/a/}", "/b/c"),
    ("${str/#foo/x}", "foobarbaz"),
    ("${str//o/<$dollar>}", "f<o><o>barbaz"),
    ("${str/o/$dollar}", "f$0obarbaz"),
    ("${str[0]}", "!modifier ([)"),
    ("${str#[f]}", "foobarbaz"),
    ("${lines#a*d}|${lines#a*b}", "ab\ncd|\ncd"),
    ("${str%${XXX:-baz}}", "foobar"),
    ("a < b << c", "a < b << c"),
];

#[test]
fn expands_words() {
    for (text, expected) in WORDS {
        let result = word(text, '\\', &env());
        match expected.strip_prefix('!') {
            Some(message) => {
                let error = result.expect_err(text);
                assert!(error.message.contains(message), "{text}: {error}");
            }
            None => assert_eq!(result.map(|r| r.value).as_deref(), Ok(*expected), "{text}"),
        }
    }
}

#[test]
fn backtick_takes_the_place_of_backslash() {
    for (text, expected) in
        [("`$PWD", "$PWD"), ("C:\\x`", "C:\\x"), ("\"`\"\\\"", "\"\\"), ("\\$PWD", "\\/home")]
    {
        assert_eq!(word(text, '`', &env()).unwrap().value, expected, "{text}");
    }
}

#[test]
fn splits_words() {
    let table: &[(&str, &[&str])] = &[
        ("hello", &["hello"]),
        ("hello${space}bye", &["helloabc", "defbye"]),
        ("hello\"${space}\"bye", &["helloabc  defbye"]),
        ("hello \"${space}\"bye", &["hello", "abc  defbye"]),
        ("hello${leading}def", &["hello", "ab", "cdef"]),
        ("hello\"${leading}\" def", &["hello  ab c", "def"]),
        ("hello${trailing}d", &["helloab", "c", "d"]),
        ("hello\"${trailing}\"d", &["helloab c   d"]),
        ("hello     there", &["hello", "there"]),
        ("hello\\ there", &["hello there"]),
        ("hello\\\" there", &["hello\"", "there"]),
        ("hello'$there'", &["hello$there"]),
        ("\"\" x ''", &["x"]),
        ("${P:-8080}/tcp", &["8080/tcp"]),
        ("", &[]),
    ];
    for (text, expected) in table {
        assert_eq!(words(text, '\\', &env()).unwrap().0, *expected, "{text}");
    }
    assert!(words("hello\" there", '\\', &env()).is_err());
}

#[test]
fn heredoc_bodies_keep_quotes() {
    let table = [
        ("\"quotes in 'file'\n", "\"quotes in 'file'\n"),
        ("\\\n", "\n"),
        ("\\\\\n", "\\\n"),
        ("\\$PWD\n", "$PWD\n"),
        ("it's $PWD and ${XXX:-\"w\"}\n", "it's /home and \"w\"\n"),
        ("a << b\n", "a << b\n"),
    ];
    for (body, expected) in table {
        assert_eq!(heredoc_body(body, &env()).unwrap().value, expected, "{body}");
    }
}

#[test]
fn reports_names() {
    let found = word("$PWD ${XXX} $XXX ${YYY:-$ZZZ} ${str#a} '$QQQ'", '\\', &env()).unwrap();
    assert_eq!(found.used, ["PWD", "str"]);
    assert_eq!(found.undefined, ["XXX", "ZZZ"]);
    assert_eq!(found.unset, ["YYY"]);
    assert_eq!(word("${XXX:?no}", '\\', &env()).unwrap_err().variable.as_deref(), Some("XXX"));
}

#[test]
fn nesting_is_bounded() {
    let deep = |n: usize| format!("{}{}", "${x:-".repeat(n), "}".repeat(n));
    assert!(word(&deep(90), '\\', &env()).is_ok());
    assert!(word(&deep(100_000), '\\', &env()).is_err());
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>(), tick: bool) {
        let escape = if tick { '`' } else { '\\' };
        let _ = word(&text, escape, &env());
        let _ = words(&text, escape, &env());
        let _ = heredoc_body(&text, &env());
        let _ = heredoc_words(&text);
        let _ = heredoc_terminator(&text);
    }

    #[test]
    fn never_panics_on_dense_syntax(text in r#"[$\{\}\\'":/#%*?a-b <-]{0,40}"#) {
        let _ = word(&text, '\\', &env());
        let _ = heredoc_body(&text, &env());
        let _ = heredoc_words(&text);
    }

    #[test]
    fn single_quotes_protect(text in "[^']*") {
        prop_assert_eq!(word(&format!("'{text}'"), '\\', &env()).unwrap().value, text);
    }
}
