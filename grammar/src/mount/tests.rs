//! Mount values and what they mean.

use super::*;
use proptest::prelude::*;

fn ok(value: &str) -> Mount {
    parse(value).unwrap_or_else(|e| panic!("{value}: {e}"))
}

#[test]
fn fills_in_defaults() {
    let bind = ok("target=/x");
    assert_eq!((bind.kind, bind.read_only, bind.target.as_deref()), (MountKind::Bind, true, Some("/x")));
    assert!(!ok("type=bind,dst=/x,rw").read_only);
    assert!(!ok("type=bind,dst=/x,readonly=false").read_only);
    let cache = ok("type=cache,target=/c");
    assert!(!cache.read_only);
    let expected = MountKind::Cache { id: None, sharing: Sharing::Shared, mode: None, uid: None, gid: None };
    assert_eq!(cache.kind, expected);
    assert!(ok("type=cache,target=/c,ro").read_only);
    assert_eq!(ok("type=bind").target.as_deref(), Some(""));
    assert_eq!(ok("type=tmpfs,target=/t,size=1.5m").kind, MountKind::Tmpfs { size_bytes: Some(1_572_864) });
}

#[test]
fn names_secrets_and_agents() {
    let id = |value: &str| match ok(value).kind {
        MountKind::Secret { id, .. } | MountKind::Ssh { id, .. } => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(id("type=secret,id=a,target=/b/c"), "a");
    assert_eq!(id("type=secret,src=a"), "a");
    assert_eq!(id("type=secret,target=/b/c/"), "c");
    assert_eq!(id("type=ssh"), "default");
    let secret = ok("type=secret,id=a,env=TOKEN,required,mode=0440,uid=7");
    let expected = MountKind::Secret {
        id: "a".to_string(),
        env: Some("TOKEN".to_string()),
        required: true,
        mode: 0o440,
        uid: 7,
        gid: 0,
        cache_key: false,
    };
    assert_eq!(secret.kind, expected);
    assert_eq!(secret.target, None);
}

#[test]
fn secrets_may_be_in_the_key() {
    let in_key = |value: &str| match ok(value).kind {
        MountKind::Secret { cache_key, .. } => cache_key,
        other => panic!("{other:?}"),
    };
    assert!(in_key("type=secret,id=a,cachekey=true") && in_key("type=secret,id=a,cachekey"));
    assert!(!in_key("type=secret,id=a,cachekey=false") && !in_key("type=secret,id=a"));
}

#[test]
fn last_key_wins_and_keys_have_no_case() {
    let mount = ok("TYPE=CACHE,id=a,id=b,Target=/x,SHARING=Locked,type=cache");
    assert!(
        matches!(mount.kind, MountKind::Cache { id: Some(id), sharing: Sharing::Locked, .. } if id == "b")
    );
}

#[test]
fn splits_like_csv() {
    assert_eq!(ok("\"target=/a,b\",\"source=x\"\"y\"").source.as_deref(), Some("x\"y"));
    assert_eq!(ok("\"target=/a,b\"").target.as_deref(), Some("/a,b"));
    for bad in ["", "target=\"/x\"", "\"target=/x", "\"target=/x\"y", "target=/x,"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn says_what_is_wrong() {
    let table = [
        ("type=nonsense,target=/m", "unsupported mount type \"nonsense\"", None),
        ("type=cahce,target=/m", "unsupported mount type", Some("`cache`")),
        ("type=cache,target=/m,sharing=lock", "unsupported sharing value \"lock\"", Some("`locked`")),
        ("type=cache,taget=/m", "unexpected key `taget` in `taget=/m`", Some("`target`")),
        ("target=/m,required=true", "unexpected key `required` for mount type `bind`", Some("type=secret")),
        ("required,type=secret,id=x", "unexpected key `required` for mount type `bind`", None),
        ("target=/m,size=1", "unexpected key `size` for mount type `bind`", None),
        ("type=tmpfs,target=/m,size=1q", "invalid value for size", None),
        ("target=/m,ro=maybe", "invalid value for ro", None),
        ("target=/m,mode=0700", "`mode` not allowed for mounts of type `bind`", None),
        ("type=cache,target=/m,mode=9", "invalid value `9` for mode", None),
        ("type=cache,target=/m,uid=-1", "invalid value `-1` for uid", None),
        ("type=tmpfs,target=/", "invalid mount target \"/\"", None),
        ("target=/a/..", "invalid mount target", None),
        ("type=secret", "one of `id`, `source`, `target` required", None),
        ("type=secret,id=a,source=b", "both `source` and `id`", None),
        ("type=secret,id=a,from=b", "should not have a `from`", None),
        ("type=secret,id=a,sharing=locked", "`sharing` not allowed", None),
        ("type=ssh,source=x", "ssh mount does not support", None),
        ("target", "must be a key=value pair", None),
        ("type=ssh,cachekey=true", "unexpected key `cachekey` for mount type `ssh`", Some("type=secret")),
        ("type=secret,id=a,cachekey=2", "invalid value for cachekey", None),
    ];
    for (value, message, hint) in table {
        let error = parse(value).expect_err(value);
        assert!(error.message.contains(message), "{value}: {}", error.message);
        if let Some(hint) = hint {
            assert!(error.hint.as_deref().unwrap_or("").contains(hint), "{value}: {:?}", error.hint);
        }
    }
    let error = parse("type=cache,taget=/m").unwrap_err();
    assert_eq!(error.span, Some(Span::new(11, 19)));
}

#[test]
fn expands_each_value_alone() {
    let mut expand = |text: &str| Ok(text.replace("$v", "a,ro"));
    let mount = parse_with("type=cache,target=/$v", &mut expand).unwrap();
    assert_eq!((mount.target.as_deref(), mount.read_only), (Some("/a,ro"), false));
}

proptest! {
    #[test]
    fn never_panics(value in r#"[a-z=,"$ ]{0,40}|.*"#) {
        let _ = parse(&value);
    }

    #[test]
    fn spans_lie_inside(value in r#"(type|target|ro|x)(=[a-z/"]*)?(,(type|size|ro|id)(=[a-z0-9]*)?)*"#) {
        if let Err(MountError { span: Some(span), .. }) = parse(&value) {
            prop_assert!(value.get(span.start..span.end).is_some());
        }
    }
}
