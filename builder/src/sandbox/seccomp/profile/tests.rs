//! Decisions of compiled profiles by an interpreter.

use super::super::tests::run_with;
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const REFUSE: u32 = RETURN_ERRNO | libc::EPERM as u32;
const MISSING: u32 = RETURN_ERRNO | libc::ENOSYS as u32;

fn compiled(json: &str) -> Result<Program, ProfileError> {
    let capabilities = CapabilitySet::DEFAULT;
    let circumstances = Circumstances { architecture: "amd64", capabilities, kernel: "6.1.0-9-amd64" };
    compile(json.as_bytes(), &circumstances)
}

fn decide(program: &Program, arch: u32, number: u32, arguments: &[u64]) -> u32 {
    run_with(program.instructions(), arch, number, arguments)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn rules_by_name_default_and_architecture() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [
              {"names": ["read", "write", "no_such_call", "cachestat"], "action": "SCMP_ACT_ALLOW"},
              {"name": "ptrace", "action": "SCMP_ACT_KILL_PROCESS"},
              {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
              {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
              {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.3"}},
              {"names": ["membarrier"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
              {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
              {"names": ["iopl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}
            ]}"#,
    )
    .unwrap();
    let eacces = RETURN_ERRNO | libc::EACCES as u32;
    for (number, expected) in [
        (0, RETURN_ALLOW),
        (1, RETURN_ALLOW),
        (2, eacces),
        (101, RETURN_KILL_PROCESS),
        (165, REFUSE),
        (321, eacces),
        (312, RETURN_ALLOW),
        (324, eacces),
        (163, eacces),
        (172, eacces),
        (451, RETURN_ALLOW),
        (452, MISSING),
        (X32_BIT, RETURN_KILL_PROCESS),
    ] {
        assert_eq!(decide(&program, X86_64, number, &[]), expected, "{number}");
    }
    assert_eq!(decide(&program, I386, 3, &[]), RETURN_ALLOW, "read of i386");
    assert_eq!(decide(&program, 0xc000_00b7, 63, &[]), RETURN_KILL_PROCESS);
    let native = compiled(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    assert_eq!(decide(&native, X86_64, 452, &[]), RETURN_ALLOW);
    assert_eq!(decide(&native, I386, 3, &[]), RETURN_KILL_PROCESS);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn arguments_are_compared_in_64_bits() {
    let big = 0x1_0000_0005u64;
    let holds = |op: &str, value: u64, two: u64, argument: u64| {
        let program = compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                 "args": [{{"index": 2, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
        ))
        .unwrap();
        decide(&program, X86_64, 0, &[0, 0, argument]) == RETURN_ALLOW
    };
    for argument in [0, 4, 5, 6, big - 1, big, big + 1, 5 << 32, u64::MAX] {
        for value in [5, big] {
            assert_eq!(holds("EQ", value, 0, argument), argument == value, "{argument} == {value}");
            assert_eq!(holds("NE", value, 0, argument), argument != value, "{argument} != {value}");
            assert_eq!(holds("LT", value, 0, argument), argument < value, "{argument} < {value}");
            assert_eq!(holds("LE", value, 0, argument), argument <= value, "{argument} <= {value}");
            assert_eq!(holds("GT", value, 0, argument), argument > value, "{argument} > {value}");
            assert_eq!(holds("GE", value, 0, argument), argument >= value, "{argument} >= {value}");
        }
        assert_eq!(holds("MASKED_EQ", 0xff, 5, argument), argument & 0xff == 5, "{argument} & 0xff == 5");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn all_conditions_of_a_rule_and_any_rule_of_a_call() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
               {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
               {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": null}]}"#,
    )
    .unwrap();
    let invalid = RETURN_ERRNO | libc::EINVAL as u32;
    assert_eq!(decide(&program, X86_64, 41, &[2, 1]), RETURN_ALLOW);
    assert_eq!(decide(&program, X86_64, 41, &[2, 2]), invalid);
    assert_eq!(decide(&program, X86_64, 41, &[1, 9]), RETURN_ALLOW);
    assert_eq!(decide(&program, X86_64, 41, &[16, 1]), invalid);
}

#[test]
fn what_cannot_be_done_is_said() {
    let rule =
        |rule: &str| compiled(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#));
    let many = r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"},"#.repeat(7);
    for (text, expected) in [
        (r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY"),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#
                .to_owned(),
            "argument 6",
        ),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"=="}]}"#.to_owned(),
            "`==`",
        ),
        (
            format!(r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{}]}}"#, many.trim_end_matches(',')),
            "7 conditions",
        ),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}"#.to_owned(),
            "`new`",
        ),
    ] {
        let error = rule(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for bad in ["", "[]", "{}", r#"{"defaultAction": 1}"#] {
        assert!(matches!(compiled(bad), Err(ProfileError::Json(_))), "{bad}");
    }
}
