//! `--source-policy-file`.

use std::path::{Path, PathBuf};

use crate::plan::policy::Policy;
use crate::ui::failure::{Failure, Kind};

/// Largest file of rules.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads the files of rules.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Policy>, Failure> {
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(path: &Path) -> Result<Policy, Failure> {
    let name = path.display().to_string();
    let fail = |causes: Vec<String>| Failure {
        causes,
        ..Failure::new(Kind::Usage, format!("cannot use the source policy `{name}`"))
    };
    let bytes = crate::net::read_bounded(path, MAX_BYTES).map_err(|error| fail(vec![error.to_string()]))?;
    let text = String::from_utf8(bytes).map_err(|_| fail(vec!["it is not UTF-8".to_owned()]))?;
    Policy::parse(&name, &text).map_err(|error| {
        let failure = Failure::from_error(Kind::Usage, &error);
        let causes = std::iter::once(failure.message).chain(failure.causes).collect();
        fail(causes).with_hint("docs/security.md has an example")
    })
}
