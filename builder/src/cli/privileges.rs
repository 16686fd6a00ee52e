//! From options of privileges to what the plan and the sandbox are told.
//!
//! Invariants: what this machine cannot do is an error when commands would run with more than was asked for, and a
//! notice when the option merely has no effect here.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::args::privileges::{Device, PrivilegeArgs, SecurityOption};
use crate::base::digest::Digest;
use crate::image::platform::Platform;
use crate::plan::graph::Privileges;
use crate::sandbox::seccomp::profile::{self, Circumstances};
use crate::sandbox::spec::SandboxLabels;
use crate::sys::capability::CapabilitySet;
use crate::sys::seccomp::Program;
use crate::ui::failure::{Failure, Kind};

/// Deepest directory of devices that is looked into, e.g. /dev/bus/usb.
const MAX_DEVICE_DEPTH: usize = 4;
/// What podman and docker run containers as.
const PROCESS_CONTEXT: [&str; 4] = ["system_u", "system_r", "container_t", "s0"];
const FILE_CONTEXT: [&str; 3] = ["system_u", "object_r", "container_file_t"];

/// All of it.
#[derive(Default)]
pub(super) struct Resolved {
    /// For the key.
    pub privileges: Privileges,
    /// `seccomp=FILE`.
    pub seccomp: Option<Program>,
    /// Of security modules.
    pub labels: SandboxLabels,
    /// Path on the host, and inside.
    pub devices: Vec<(String, String)>,
    /// For the user to know.
    pub notices: Vec<String>,
}

/// Whether the kernel has AppArmor and it is on.
pub(super) fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// Whether the kernel has SELinux and a policy is loaded.
pub(super) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Reads what the options name.
pub(super) fn resolve(args: &PrivilegeArgs) -> Result<Resolved, Failure> {
    let mut resolved = Resolved::default();
    let capabilities = CapabilitySet::from_flags(&args.cap_add, &args.cap_drop).map_err(|e| {
        Failure::from_error(Kind::Usage, &e)
            .with_hint("names are those of capabilities(7), e.g. NET_ADMIN; ALL is all")
    })?;
    if capabilities != CapabilitySet::DEFAULT {
        resolved.privileges.capabilities = Some(capabilities.names().map(str::to_owned).collect());
    }
    for device in &args.devices {
        devices(device, &mut resolved)?;
    }
    let mut parts: Vec<(&str, &str)> = Vec::new();
    for option in &args.security {
        match option {
            SecurityOption::Default => {}
            SecurityOption::NoNewPrivileges => resolved.privileges.no_new_privileges = true,
            SecurityOption::NoSeccomp => {
                resolved.privileges.seccomp = Some("unconfined".to_owned());
                resolved.seccomp = None;
            }
            SecurityOption::Seccomp(path) => {
                let (text, program) = seccomp(path, capabilities)?;
                resolved.privileges.seccomp = Some(Digest::of(&text).to_string());
                resolved.seccomp = Some(program);
            }
            SecurityOption::AppArmor(profile) if has_apparmor() => {
                resolved.labels.apparmor = Some(profile.clone());
            }
            SecurityOption::AppArmor(_) => {
                resolved
                    .notices
                    .push("--security-opt apparmor has no effect: this kernel has no AppArmor".to_owned());
            }
            SecurityOption::Label(part, value) => parts.push((part, value)),
        }
    }
    if !parts.is_empty() {
        if has_selinux() {
            (resolved.labels.selinux_process, resolved.labels.selinux_files) = contexts(&parts);
        } else {
            resolved
                .notices
                .push("--security-opt label has no effect: this kernel has no SELinux".to_owned());
        }
    }
    Ok(resolved)
}

/// Contexts of the process and of its files with these parts in place of the usual ones.
fn contexts(parts: &[(&str, &str)]) -> (Option<String>, Option<String>) {
    let given = |name: &str| parts.iter().rev().find(|(part, _)| *part == name).map(|(_, value)| *value);
    let [user, role, kind, level] = PROCESS_CONTEXT;
    let (user, level) = (given("user").unwrap_or(user), given("level").unwrap_or(level));
    let (role, kind) = (given("role").unwrap_or(role), given("type").unwrap_or(kind));
    let files = FILE_CONTEXT.join(":");
    (Some(format!("{user}:{role}:{kind}:{level}")), Some(format!("{files}:{level}")))
}

fn seccomp(path: &Path, capabilities: CapabilitySet) -> Result<(Vec<u8>, Program), Failure> {
    let failed = |message: String| Failure::new(Kind::Usage, message);
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(profile::MAX_BYTES + 1).read_to_end(&mut text)).map_err(
        |e| Failure {
            causes: vec![e.to_string()],
            ..failed(format!("cannot read the seccomp profile `{}`", path.display()))
        },
    )?;
    if text.len() as u64 > profile::MAX_BYTES {
        let limit = profile::MAX_BYTES;
        return Err(failed(format!("the seccomp profile `{}` is larger than {limit} bytes", path.display())));
    }
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let host = Platform::host();
    let circumstances = Circumstances { architecture: &host.architecture, capabilities, kernel: &kernel };
    let program = profile::compile(&text, &circumstances).map_err(|e| {
        Failure::from_error(Kind::Usage, &e)
            .with_hint(format!("`{}` has to be a profile as docker takes it", path.display()))
    })?;
    Ok((text, program))
}

/// A device, or all in a directory of devices.
fn devices(device: &Device, resolved: &mut Resolved) -> Result<(), Failure> {
    let failed = |message: String| Failure::new(Kind::Usage, message);
    let kind = fs::metadata(&device.host)
        .map_err(|e| Failure {
            causes: vec![e.to_string()],
            ..failed(format!("--device: cannot use `{}`", device.host))
        })?
        .file_type();
    let is_node = |kind: &fs::FileType| kind.is_char_device() || kind.is_block_device();
    let before = resolved.devices.len();
    if is_node(&kind) {
        resolved.devices.push((device.host.clone(), device.inside.clone()));
    } else if kind.is_dir() {
        let walk = walkdir::WalkDir::new(&device.host).max_depth(MAX_DEVICE_DEPTH).sort_by_file_name();
        for entry in walk.into_iter().flatten().filter(|entry| is_node(&entry.file_type())) {
            let below = entry.path().strip_prefix(&device.host).unwrap_or(entry.path());
            let (host, inside) = (entry.path().to_str(), Path::new(&device.inside).join(below));
            if let (Some(host), Some(inside)) = (host, inside.to_str()) {
                resolved.devices.push((host.to_owned(), inside.to_owned()));
            }
        }
    }
    if resolved.devices.len() == before {
        return Err(failed(format!("--device: `{}` is not a device", device.host)));
    }
    if device.restricted {
        resolved.notices.push(format!(
            "--device {}: the access given is not enforced; commands may read and write as the node's mode says",
            device.host
        ));
    }
    resolved.privileges.devices.extend(resolved.devices[before..].iter().map(|(_, inside)| inside.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_label_replace_the_usual_ones() {
        let (process, files) = contexts(&[("type", "spc_t"), ("level", "s0:c1,c2")]);
        assert_eq!(process.as_deref(), Some("system_u:system_r:spc_t:s0:c1,c2"));
        assert_eq!(files.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
    }

    #[test]
    fn defaults_leave_the_key_alone() {
        assert_eq!(resolve(&PrivilegeArgs::default()).unwrap().privileges, Privileges::default());
        let args = PrivilegeArgs { cap_add: vec!["kill".to_owned()], ..PrivilegeArgs::default() };
        assert_eq!(resolve(&args).unwrap().privileges, Privileges::default(), "it is in the default set");
        let args = PrivilegeArgs { cap_add: vec!["FLY".to_owned()], ..PrivilegeArgs::default() };
        assert!(resolve(&args).is_err());
    }

    #[test]
    fn devices_are_looked_at() {
        let device =
            |host: &str| Device { host: host.to_owned(), inside: "/dev/x".to_owned(), restricted: false };
        let of =
            |host: &str| resolve(&PrivilegeArgs { devices: vec![device(host)], ..PrivilegeArgs::default() });
        assert_eq!(of("/dev/null").unwrap().privileges.devices, ["/dev/x"]);
        assert!(of("/etc/passwd").is_err() && of("/none").is_err() && of("/etc").is_err());
    }
}
