//! Tables of expansions; results as shells and BuildKit give them.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn env() -> BTreeMap<String, String> {
    [
        ("DIR", "/srv"),
        ("TOOL", "make"),
        ("WORD", "žluť"),
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
    ("mortar", "mortar"),
    ("mo'rt'ar", "mortar"),
    ("mo'rtar", "!single-quote"),
    ("mo\\'rtar", "mo'rtar"),
    ("mo\\\\'rtar", "!single-quote"),
    ("up\\tdown", "uptdown"),
    ("\"up\\tdown\"", "up\\tdown"),
    ("'up\\tdown'", "up\\tdown"),
    ("mortar\\", "mortar"),
    ("mortar\\\\", "mortar\\"),
    ("\"mortar", "!double-quote"),
    ("\"mortar\\\"", "!double-quote"),
    ("\"mor'tar\"", "mor'tar"),
    ("'mortar\\'", "mortar\\"),
    ("$", "$"),
    ("q-$1x", "q-x"),
    ("q-$.x", "q-$.x"),
    ("q-$DIR.", "q-/srv."),
    ("q-\\$DIR", "q-$DIR"),
    ("q-\\\\$DIR", "q-\\/srv"),
    ("\"q-\\$DIR\"", "q-$DIR"),
    ("'q-$DIR'", "q-$DIR"),
    ("\"\\\"\\\\\\$\"", "\"\\$"),
    ("q-\\${}", "q-${}"),
    ("q-${}", "!bad substitution"),
    ("${:}", "!bad substitution"),
    ("${{DIR}", "!bad substitution"),
    ("${", "!missing '}'"),
    ("q-${hi};", "q-;"),
    ("q-${DIR", "!missing '}'"),
    ("q-${DIR}", "q-/srv"),
    ("q-${.}", "!modifier"),
    ("q-${NONE:-dflt};", "q-dflt;"),
    ("q-${DIR:-dflt};", "q-/srv;"),
    ("q-${NONE:-$DIR};", "q-/srv;"),
    ("q-${NONE:-${DIR:-alt}};", "q-/srv;"),
    ("q-${NONE:-${NADA:-alt}};", "q-alt;"),
    ("q-${NONE:NADA}", "!modifier (:N)"),
    ("q-${NONE:+${DIR}};", "q-;"),
    ("q-${DIR:+${TOOL}};", "q-make;"),
    ("q-${DIR:=dflt};", "!modifier (:=)"),
    ("q-${DIR:+${DIR}:};", "q-/srv:;"),
    ("q-${NONE:-\\$DIR:};", "q-$DIR:;"),
    ("q-${NONE:-\\${DIR}z};", "q-${DIRz};"),
    ("${EMPTY-d}|${EMPTY:-d}|${NONE-d}", "|d|d"),
    ("${EMPTY+d}|${EMPTY:+d}|${NONE+d}", "d||"),
    ("${EMPTY?}|${DIR:?}", "|/srv"),
    ("${EMPTY:?}", "!EMPTY: is not allowed to be empty"),
    ("${NONE?}", "!NONE: is not allowed to be unset"),
    ("${NONE:?say $DIR}", "!NONE: say /srv"),
    ("naïve-$WORD", "naïve-žluť"),
    ("${low}}", "}"),
    ("${low:-two {foo}", "two {foo"),
    ("${low:-two ${foo}", "!missing '}'"),
    ("$001low", "low"),
    ("${999:-two}low", "twolow"),
    ("$@@@", "@@"),
    ("${*:-two}", "two"),
    ("${#}|${-:-b}|$$|${!}", "|b||"),
    ("${!DIR}", "!modifier"),
    ("${#DIR}", "!modifier"),
    ("${DIR^^}", "!modifier (^)"),
    ("${DIR:0:2}", "!modifier (:0)"),
    ("${str#f*b}|${str##f*b}", "arbaz|az"),
    ("${str%b*}|${str%%b*}", "foobar|foo"),
    ("${file%.*}|${file%%.*}|${file#*.}|${file##*.}", "archive.tar|archive|tar.gz|gz"),
    ("${path##*/}|${path%/*}", "c|/a/b"),
    ("${s#a\\*}|${s//\\*/-}", "b*c|a-b-c"),
    ("${str#?o}|${str%?z}", "obarbaz|foobarb"),
    ("${str#x}|${NONE#x}", "foobarbaz|"),
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
    ("${str%${NONE:-baz}}", "foobar"),
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
        [("`$DIR", "$DIR"), ("C:\\x`", "C:\\x"), ("\"`\"\\\"", "\"\\"), ("\\$DIR", "\\/srv")]
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
        ("\\$DIR\n", "$DIR\n"),
        ("it's $DIR and ${NONE:-\"w\"}\n", "it's /srv and \"w\"\n"),
        ("a << b\n", "a << b\n"),
    ];
    for (body, expected) in table {
        assert_eq!(heredoc_body(body, &env()).unwrap().value, expected, "{body}");
    }
}

#[test]
fn reports_names() {
    let found = word("$DIR ${NONE} $NONE ${YYY:-$ZZZ} ${str#a} '$QQQ'", '\\', &env()).unwrap();
    assert_eq!(found.used, ["DIR", "str"]);
    assert_eq!(found.undefined, ["NONE", "ZZZ"]);
    assert_eq!(found.unset, ["YYY"]);
    assert_eq!(word("${NONE:?no}", '\\', &env()).unwrap_err().variable.as_deref(), Some("NONE"));
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
