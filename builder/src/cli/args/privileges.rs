//! What commands may do beyond the default, or less: docker's options of `docker run`.
//!
//! Invariants: only the form is checked here; files, devices and the host's security modules are for the command to look
//! at.

use std::path::PathBuf;

use clap::Args;

const PRIVILEGES: &str = "Privileges";

/// Options of privileges.
#[derive(Debug, Default, Args)]
pub struct PrivilegeArgs {
    /// Give commands a capability, e.g. NET_ADMIN, or ALL
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', help_heading = PRIVILEGES)]
    pub cap_add: Vec<String>,
    /// Take a capability from commands, or ALL
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', help_heading = PRIVILEGES)]
    pub cap_drop: Vec<String>,
    /// Show commands a device of this machine, e.g. /dev/fuse
    #[arg(long = "device", value_name = "PATH[:INSIDE[:rwm]]", value_parser = device, help_heading = PRIVILEGES)]
    pub devices: Vec<Device>,
    /// Security setting: seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, label=TYPE:VALUE, label=disable or
    /// no-new-privileges
    #[arg(long = "security-opt", value_name = "OPTION", value_parser = security, help_heading = PRIVILEGES)]
    pub security: Vec<SecurityOption>,
}

/// One `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the host.
    pub host: String,
    /// Inside, absolute.
    pub inside: String,
    /// Less than reading and writing was asked for, which cannot be enforced.
    pub restricted: bool,
}

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    /// `seccomp=unconfined`.
    NoSeccomp,
    /// `seccomp=FILE`.
    Seccomp(PathBuf),
    /// `seccomp=builtin`, `apparmor=unconfined`, `label=disable`, `no-new-privileges=false`: what holds anyway.
    Default,
    /// `apparmor=PROFILE`.
    AppArmor(String),
    /// `label=PART:VALUE`, PART one of user, role, type, level.
    Label(&'static str, String),
    /// `no-new-privileges`.
    NoNewPrivileges,
}

/// Why a text is no such option.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivilegeError {
    /// `--device`.
    #[error("`{0}` is not of the form PATH[:INSIDE[:rwm]] with absolute paths, e.g. /dev/fuse")]
    Device(String),
    /// `--security-opt`.
    #[error(
        "`{0}` is none of seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, label=user|role|type|level:VALUE, label=disable, no-new-privileges"
    )]
    Security(String),
}

pub(super) fn device(text: &str) -> Result<Device, PrivilegeError> {
    let bad = || PrivilegeError::Device(text.to_owned());
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let (mut inside, mut access) = (host, "rwm");
    let is_access = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => {}
        // As docker reads it: PATH:rwm.
        (Some(part), None, _) if is_access(part) => access = part,
        (Some(part), None, _) => inside = part,
        (Some(part), Some(last), None) if is_access(last) => (inside, access) = (part, last),
        _ => return Err(bad()),
    }
    let absolute =
        |path: &str| path.starts_with('/') && path.len() > 1 && !path.split('/').any(|p| p == "..");
    if !absolute(host) || !absolute(inside) {
        return Err(bad());
    }
    let restricted = !(access.contains('r') && access.contains('w'));
    Ok(Device { host: host.to_owned(), inside: inside.to_owned(), restricted })
}

pub(super) fn security(text: &str) -> Result<SecurityOption, PrivilegeError> {
    let bad = || PrivilegeError::Security(text.to_owned());
    if text == "no-new-privileges" {
        return Ok(SecurityOption::NoNewPrivileges);
    }
    // docker's old form has a colon.
    let (name, value) = text.split_once(['=', ':']).ok_or_else(bad)?;
    Ok(match (name, value) {
        (_, "") => return Err(bad()),
        ("seccomp", "unconfined") => SecurityOption::NoSeccomp,
        ("seccomp", "builtin") | ("apparmor", "unconfined") | ("label", "disable") => SecurityOption::Default,
        ("seccomp", file) => SecurityOption::Seccomp(PathBuf::from(file)),
        ("apparmor", profile) if profile.chars().all(|c| !c.is_control()) => {
            SecurityOption::AppArmor(profile.to_owned())
        }
        ("no-new-privileges", "true") => SecurityOption::NoNewPrivileges,
        ("no-new-privileges", "false") => SecurityOption::Default,
        ("label", label) => {
            let (part, value) = label.split_once(':').ok_or_else(bad)?;
            let part = ["user", "role", "type", "level"].into_iter().find(|known| *known == part);
            let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic());
            SecurityOption::Label(part.filter(|_| plain).ok_or_else(bad)?, value.to_owned())
        }
        _ => return Err(bad()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let read = |text: &str| device(text).map(|d| (d.host, d.inside, d.restricted));
        let fuse = || "/dev/fuse".to_owned();
        assert_eq!(read("/dev/fuse"), Ok((fuse(), fuse(), false)));
        assert_eq!(read("/dev/fuse:r"), Ok((fuse(), fuse(), true)));
        assert_eq!(read("/dev/fuse:/dev/f:rw"), Ok((fuse(), "/dev/f".to_owned(), false)));
        for bad in ["", "fuse", "/dev/fuse:", "/dev/fuse:x", "/dev/../x", "/dev/fuse:/a:q", "/a:/b:r:w", "/"]
        {
            assert!(device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn security_options() {
        assert_eq!(security("seccomp=unconfined"), Ok(SecurityOption::NoSeccomp));
        assert_eq!(security("seccomp:p.json"), Ok(SecurityOption::Seccomp("p.json".into())));
        assert_eq!(
            security("apparmor=docker-default"),
            Ok(SecurityOption::AppArmor("docker-default".into()))
        );
        assert_eq!(security("label=type:spc_t"), Ok(SecurityOption::Label("type", "spc_t".into())));
        assert_eq!(security("label:level:s0:c1,c2"), Ok(SecurityOption::Label("level", "s0:c1,c2".into())));
        assert_eq!(security("label=disable"), Ok(SecurityOption::Default));
        assert_eq!(security("no-new-privileges"), Ok(SecurityOption::NoNewPrivileges));
        for bad in
            ["", "seccomp", "seccomp=", "label=type", "label=size:1", "label=type:", "systempaths=unconfined"]
        {
            assert!(security(bad).is_err(), "{bad}");
        }
    }
}
