//! `kiln login` and `kiln logout`.
//!
//! Invariants: nothing is kept that the registry does not take; a password is never shown.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use super::access::Access;
use super::args::access::{AccessArgs, Login};
use super::args::{LoginArgs, LogoutArgs};
use super::failure::of_registry;
use crate::base::cancel::CancelToken;
use crate::base::events::EventSink;
use crate::registry::{self, KeptIn, LoginCheck};
use crate::ui::failure::{Failure, Kind};
use crate::ui::{print, terminal};

/// Longest password: tokens of some registries have a few kilobytes.
const MAX_PASSWORD_BYTES: u64 = 64 * 1024;

/// `kiln login`.
pub(super) fn login(args: &LoginArgs) -> Result<u8, Failure> {
    let registry = &args.registry;
    let username = match &args.username {
        Some(username) => username.clone(),
        None if terminal::stdin_is_terminal() && !args.password_stdin => {
            ask(&format!("user name for {registry}: "), false)?
        }
        None => {
            return Err(usage("the user name is missing").with_hint("give it with --username NAME"));
        }
    };
    let password = match &args.password {
        Some(password) => {
            print::talk("warning: others on this machine can see the arguments; --password-stdin is safer");
            password.clone()
        }
        None if args.password_stdin => from_stdin()?,
        None if terminal::stdin_is_terminal() => ask(&format!("password for {username}: "), true)?,
        None => {
            let hint =
                format!("give it on standard input: kiln login -u {username} --password-stdin {registry}");
            return Err(usage("the password is missing, and there is no terminal to ask").with_hint(hint));
        }
    };
    if username.is_empty() || username.contains(':') || password.is_empty() {
        return Err(usage("a user name without colon and a password are needed"));
    }
    let login = Login { username, password };
    let credential = super::access::credential(&login);
    let access = AccessArgs {
        creds: Some(login),
        tls_verify: args.tls_verify,
        cert_dir: args.cert_dir.clone(),
        ..AccessArgs::default()
    };
    let access = Access::new(&access, &BTreeSet::from([registry.clone()]), BTreeSet::new())?;
    let client = access.client(&access.net()?, &CancelToken::new(), EventSink::none())?;
    let check = client.check_login(registry).map_err(|error| match &error {
        registry::RegistryError::Denied { .. } => {
            let failure = Failure::from_error(Kind::Network, &error);
            Failure { message: format!("{registry} does not take this user name and password"), ..failure }
        }
        other => of_registry(other),
    })?;
    let file = match &args.authfile {
        Some(file) => file.clone(),
        None => registry::default_login_file(|name| std::env::var_os(name)).ok_or_else(|| {
            Failure::new(Kind::Config, "cannot tell where to keep credentials: HOME is not set")
                .with_hint("name a file with --authfile FILE")
        })?,
    };
    let kept = registry::keep_login(&file, registry, &credential)
        .map_err(|e| Failure::from_error(Kind::Config, &e))?;
    if check == LoginCheck::NotAsked {
        print::talk(format!("warning: {registry} asked for no credentials, so they could not be checked"));
    }
    print::talk(match kept {
        KeptIn::File(path) => format!("logged in to {registry}; kept in {}", path.display()),
        KeptIn::Helper(program) => format!("logged in to {registry}; kept by {program}"),
    });
    Ok(0)
}

/// `kiln logout`.
pub(super) fn logout(args: &LogoutArgs) -> Result<u8, Failure> {
    let files: Vec<PathBuf> = match &args.authfile {
        Some(file) => vec![file.clone()],
        None => registry::default_auth_files(|name| std::env::var_os(name)),
    };
    let mut removed = false;
    for file in &files {
        if registry::erase_login(file, &args.registry).map_err(|e| Failure::from_error(Kind::Config, &e))? {
            print::talk(format!("removed the login for {} from {}", args.registry, file.display()));
            removed = true;
        }
    }
    if removed {
        return Ok(0);
    }
    Err(Failure::new(Kind::User, format!("there is no login for {}", args.registry)))
}

fn usage(message: &str) -> Failure {
    Failure::new(Kind::Usage, message)
}

fn from_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_PASSWORD_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::from_error(Kind::User, &e))?;
    let text = String::from_utf8(bytes).map_err(|_| usage("the password on standard input is not text"))?;
    // `echo` and files end with a line end that is not meant.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn ask(question: &str, hidden: bool) -> Result<String, Failure> {
    let fail = |e: &std::io::Error| Failure::from_error(Kind::User, e);
    let mut err = std::io::stderr();
    err.write_all(question.as_bytes()).and_then(|()| err.flush()).map_err(|e| fail(&e))?;
    let line = if hidden { terminal::read_hidden_line() } else { terminal::read_line() };
    line.map_err(|e| fail(&e))
}
