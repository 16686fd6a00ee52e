//! A profile of the user's (`--security-opt seccomp=FILE`) in docker's JSON form (moby/profiles, `seccomp/seccomp.go`;
//! `default.json` is an example) as a BPF program.
//!
//! | in the file | here |
//! | --- | --- |
//! | `defaultAction`, `defaultErrnoRet` | what is not named; numbers above all named ones get ENOSYS where it is an errno, as runc does |
//! | `archMap`, `architectures` | the native architecture and those of its companions that are listed; others are killed |
//! | `syscalls`: `names`, `action`, `errnoRet` | the first rule whose arguments fit; one without arguments comes last |
//! | `args` | all of them, in 64 bits |
//! | `includes`, `excludes` | by capabilities, native architecture and kernel version |
//!
//! Invariants:
//! - what cannot be done is an error, never left out in silence; only names of calls that no supported architecture has
//!   are passed over, since profiles are written for many;
//! - reading is bounded: the file by [`MAX_BYTES`], the program by the kernel's limit.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ARCH_OFFSET, ARGUMENT_0_OFFSET, JUMP, NUMBER_OFFSET};
use super::{ARM_PRIVATE, ENOSYS, EPERM, JUMP_AT_LEAST, JUMP_EQUAL, LOAD_WORD, NATIVE, RETURN, X32, X32_BIT};
use super::{RETURN_ALLOW, RETURN_ERRNO, RETURN_KILL_PROCESS, Section, branch, plain, search};
use crate::sandbox::seccomp::table::{NO, SYSCALLS};
use crate::sys::capability::CapabilitySet;
use crate::sys::seccomp::{Instruction, Program, SeccompError};

/// Largest profile that is read.
pub const MAX_BYTES: u64 = 1024 * 1024;

const RETURN_KILL_THREAD: u32 = 0;
const RETURN_TRAP: u32 = 0x0003_0000;
const RETURN_LOG: u32 = 0x7ffc_0000;
const JUMP_ABOVE: u16 = 0x25;
const AND: u16 = 0x54;
/// The kernel has six.
const ARGUMENTS: u32 = 6;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProfileError {
    #[error("the seccomp profile is not JSON of docker's form")]
    Json(#[source] serde_json::Error),
    #[error("the seccomp profile has the action `{0}`, which kiln cannot do")]
    Action(String),
    #[error("the seccomp profile compares with `{0}`, which is no operator")]
    Operator(String),
    #[error("the seccomp profile compares argument {0}; system calls have arguments 0 to 5")]
    Argument(u32),
    #[error("the seccomp profile has {0} conditions for one call; at most {ARGUMENTS} can be checked")]
    Conditions(usize),
    #[error("the seccomp profile asks for the kernel version `{0}`, which is none")]
    Kernel(String),
    #[error("the seccomp profile is too large for the kernel")]
    Program(#[source] SeccompError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Option<Vec<String>>,
    /// The old form.
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What decides about the rules that depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The machine's, in the words of image configs.
    pub architecture: &'a str,
    /// Capabilities of the command.
    pub capabilities: CapabilitySet,
    /// `uname -r`.
    pub kernel: &'a str,
}

/// Compiles a profile.
///
/// # Errors
/// When it is malformed, or asks for what a filter of kiln's cannot do (tracing, notification).
pub fn compile(json: &[u8], circumstances: &Circumstances<'_>) -> Result<Program, ProfileError> {
    let profile: Profile = serde_json::from_slice(json).map_err(ProfileError::Json)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in profile.syscalls.iter().flatten() {
        if !applies(rule, circumstances)? {
            continue;
        }
        let result = action(&rule.action, rule.errno_ret.or(profile.default_errno_ret))?;
        let conditions: Vec<Condition> =
            rule.args.iter().flatten().map(Condition::read).collect::<Result<_, _>>()?;
        if conditions.len() > ARGUMENTS as usize {
            return Err(ProfileError::Conditions(conditions.len()));
        }
        let names = rule.names.iter().flatten().chain(&rule.name);
        rules.extend(names.map(|name| (name.as_str(), Outcome { conditions: conditions.clone(), result })));
    }
    let listed = listed(&profile);
    let mut program = vec![plain(LOAD_WORD, ARCH_OFFSET)];
    for section in NATIVE {
        let columns: Vec<(usize, u32)> =
            section.columns.iter().copied().filter(|(column, _)| listed.contains(column)).collect();
        if columns.is_empty() {
            continue;
        }
        let mut body = vec![plain(LOAD_WORD, NUMBER_OFFSET)];
        let steps = steps(&columns, section, &rules, default);
        body.extend(search(&steps, &|outcomes: &Vec<Outcome>| leaf(outcomes, default)));
        program.push(branch(JUMP_EQUAL, section.audit_arch, 1, 0));
        program.push(plain(JUMP, body.len() as u32));
        program.append(&mut body);
    }
    program.push(plain(RETURN, RETURN_KILL_PROCESS));
    Program::new(program).map_err(ProfileError::Program)
}

/// What a rule says: its result holds when all of its conditions do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    conditions: Vec<Condition>,
    result: u32,
}

fn action(name: &str, errno: Option<u16>) -> Result<u32, ProfileError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => RETURN_ALLOW,
        "SCMP_ACT_ERRNO" => RETURN_ERRNO | u32::from(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RETURN_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RETURN_KILL_PROCESS,
        "SCMP_ACT_TRAP" => RETURN_TRAP,
        "SCMP_ACT_LOG" => RETURN_LOG,
        other => return Err(ProfileError::Action(other.to_owned())),
    })
}

fn applies(rule: &Rule, circumstances: &Circumstances<'_>) -> Result<bool, ProfileError> {
    let native = circumstances.architecture;
    let has = |name: &String| {
        CapabilitySet::parse(name).is_ok_and(|capability| circumstances.capabilities.intersects(capability))
    };
    if let Some(needed) = &rule.includes {
        let capable = needed.caps.iter().flatten().all(has);
        let here = needed
            .arches
            .as_ref()
            .is_none_or(|list| list.is_empty() || list.iter().any(|arch| arch == native));
        if !capable || !here || !new_enough(needed.min_kernel.as_deref(), circumstances.kernel)? {
            return Ok(false);
        }
    }
    let Some(excluded) = &rule.excludes else { return Ok(true) };
    let new =
        excluded.min_kernel.is_some() && new_enough(excluded.min_kernel.as_deref(), circumstances.kernel)?;
    let here = excluded.arches.iter().flatten().any(|arch| arch == native);
    Ok(!new && !here && !excluded.caps.iter().flatten().any(has))
}

fn new_enough(wanted: Option<&str>, kernel: &str) -> Result<bool, ProfileError> {
    let Some(wanted) = wanted.filter(|text| !text.is_empty()) else { return Ok(true) };
    let version = |text: &str| {
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let wanted = version(wanted).ok_or_else(|| ProfileError::Kernel(wanted.to_owned()))?;
    Ok(version(kernel).is_none_or(|kernel| kernel >= wanted))
}

/// Columns of the table whose architectures the profile lists; the native one always is.
fn listed(profile: &Profile) -> Vec<usize> {
    const NAMES: [&str; 5] =
        ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
    let native = NATIVE.first().map_or(0, |section| section.columns[0].0);
    let mut names: Vec<&str> = profile.architectures.iter().flatten().map(String::as_str).collect();
    for entry in profile.arch_map.iter().flatten().filter(|entry| entry.architecture == NAMES[native]) {
        names.extend(entry.sub_architectures.iter().flatten().map(String::as_str));
    }
    (0..NAMES.len()).filter(|column| *column == native || names.contains(&NAMES[*column])).collect()
}

/// Where the outcome changes, in order of number.
fn steps(
    columns: &[(usize, u32)],
    section: &Section,
    rules: &[(&str, Outcome)],
    default: u32,
) -> Vec<(u32, Vec<Outcome>)> {
    let always = |result| vec![Outcome { conditions: Vec::new(), result }];
    let mut steps: BTreeMap<u32, Vec<Outcome>> = BTreeMap::new();
    for (column, offset) in columns {
        let mut calls: BTreeMap<u32, Vec<Outcome>> = BTreeMap::new();
        for (name, outcome) in rules {
            let Ok(at) = SYSCALLS.binary_search_by(|(known, _, _)| (*known).cmp(name)) else { continue };
            let number = SYSCALLS[at].2[*column];
            if number != NO {
                calls.entry(number).or_default().push(outcome.clone());
            }
        }
        steps.insert(*offset, always(default));
        // Told that a new call does not exist, libc falls back to an old one; told that it may not, it gives up.
        let newer =
            if default & 0xffff_0000 == RETURN_ERRNO { RETURN_ERRNO | u32::from(ENOSYS) } else { default };
        let highest = calls.keys().copied().filter(|number| *number < ARM_PRIVATE).max().unwrap_or(0);
        steps.insert(offset + highest + 1, always(newer));
        for (number, outcomes) in calls {
            steps.entry(offset + number + 1).or_insert_with(|| always(default));
            steps.insert(offset + number, outcomes);
        }
    }
    // Calls of x32 carry the mark of x86-64.
    if section.columns.iter().any(|(column, _)| *column == X32)
        && !columns.iter().any(|(column, _)| *column == X32)
    {
        steps.insert(X32_BIT, always(RETURN_KILL_PROCESS));
    }
    steps.into_iter().collect()
}

fn leaf(outcomes: &[Outcome], default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.conditions.is_empty()) {
        code.extend(rule(outcome));
    }
    let rest =
        outcomes.iter().find(|outcome| outcome.conditions.is_empty()).map_or(default, |all| all.result);
    code.push(plain(RETURN, rest));
    code
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    mask: u64,
    value: u64,
    operator: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Condition {
    fn read(argument: &Argument) -> Result<Self, ProfileError> {
        if argument.index >= ARGUMENTS {
            return Err(ProfileError::Argument(argument.index));
        }
        let operator = match argument.op.as_str() {
            "SCMP_CMP_EQ" | "SCMP_CMP_MASKED_EQ" => Operator::Equal,
            "SCMP_CMP_NE" => Operator::NotEqual,
            "SCMP_CMP_LT" => Operator::Less,
            "SCMP_CMP_LE" => Operator::LessOrEqual,
            "SCMP_CMP_GT" => Operator::Greater,
            "SCMP_CMP_GE" => Operator::GreaterOrEqual,
            other => return Err(ProfileError::Operator(other.to_owned())),
        };
        // Of a masked comparison the first value is the mask.
        let (mask, value) = match argument.op.as_str() {
            "SCMP_CMP_MASKED_EQ" => (argument.value, argument.value_two),
            _ => (u64::MAX, argument.value),
        };
        Ok(Self { index: argument.index, mask, value, operator })
    }

    /// Upper half first, since it decides unless it is equal.
    fn code(&self) -> Vec<Draft> {
        use Goal::{Fail, Met, Next};
        let (high, low) = ((self.value >> 32) as u32, self.value as u32);
        let offset = ARGUMENT_0_OFFSET + 8 * self.index;
        let load = |offset: u32, mask: u32| {
            let mut code = vec![Draft::Plain(plain(LOAD_WORD, offset))];
            if mask != u32::MAX {
                code.push(Draft::Plain(plain(AND, mask)));
            }
            code
        };
        let jump = |code, operand, yes, no| Draft::Jump { code, operand, yes, no };
        let (upper, last) = match self.operator {
            Operator::Equal => (vec![jump(JUMP_EQUAL, high, Next, Fail)], jump(JUMP_EQUAL, low, Met, Fail)),
            Operator::NotEqual => (vec![jump(JUMP_EQUAL, high, Next, Met)], jump(JUMP_EQUAL, low, Fail, Met)),
            Operator::Greater => (
                vec![jump(JUMP_ABOVE, high, Met, Next), jump(JUMP_EQUAL, high, Next, Fail)],
                jump(JUMP_ABOVE, low, Met, Fail),
            ),
            Operator::GreaterOrEqual => (
                vec![jump(JUMP_ABOVE, high, Met, Next), jump(JUMP_EQUAL, high, Next, Fail)],
                jump(JUMP_AT_LEAST, low, Met, Fail),
            ),
            Operator::Less => (
                vec![jump(JUMP_ABOVE, high, Fail, Next), jump(JUMP_EQUAL, high, Next, Met)],
                jump(JUMP_AT_LEAST, low, Fail, Met),
            ),
            Operator::LessOrEqual => (
                vec![jump(JUMP_ABOVE, high, Fail, Next), jump(JUMP_EQUAL, high, Next, Met)],
                jump(JUMP_ABOVE, low, Fail, Met),
            ),
        };
        // Little endian: the upper half of an argument stands behind the lower one.
        let mut code = load(offset + 4, (self.mask >> 32) as u32);
        code.extend(upper);
        code.extend(load(offset, self.mask as u32));
        code.push(last);
        code
    }
}

/// Where a jump of a condition leads.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// The next instruction.
    Next,
    /// Behind the condition: it holds.
    Met,
    /// Behind the rule: another one decides.
    Fail,
}

enum Draft {
    Plain(Instruction),
    Jump { code: u16, operand: u32, yes: Goal, no: Goal },
}

/// The conditions one after the other and the result. At most six conditions of seven instructions: every jump fits.
fn rule(outcome: &Outcome) -> Vec<Instruction> {
    let conditions: Vec<Vec<Draft>> = outcome.conditions.iter().map(Condition::code).collect();
    let total: usize = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total);
    for condition in conditions {
        let end = code.len() + condition.len();
        for draft in condition {
            let at = code.len();
            let distance = |goal: Goal| -> u8 {
                let target = match goal {
                    Goal::Next => at + 1,
                    Goal::Met => end,
                    Goal::Fail => total,
                };
                u8::try_from(target - at - 1).unwrap_or(u8::MAX)
            };
            code.push(match draft {
                Draft::Plain(instruction) => instruction,
                Draft::Jump { code, operand, yes, no } => branch(code, operand, distance(yes), distance(no)),
            });
        }
    }
    code.push(plain(RETURN, outcome.result));
    code
}

#[cfg(test)]
mod tests;
