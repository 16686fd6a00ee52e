//! Packages of apk (the installed database: <https://wiki.alpinelinux.org/wiki/Apk_spec>).

use super::{Kind, MAX_DATABASE_BYTES, Package, Scan};

const DATABASES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

pub(super) fn scan(scan: &mut Scan<'_>) {
    for path in DATABASES {
        // Where /lib is a link to /usr/lib both are one file.
        if let Some(text) = scan.read(path, MAX_DATABASE_BYTES) {
            return records(&text, path).into_iter().for_each(|package| scan.add(package));
        }
    }
}

fn records(text: &str, found_in: &str) -> Vec<Package> {
    let mut packages = Vec::new();
    for record in text.split("\n\n") {
        let mut package = Package::new(Kind::Apk, found_in);
        for (key, value) in record.lines().filter_map(|line| line.split_once(':')) {
            let field = match key {
                "P" => &mut package.name,
                "V" => &mut package.version,
                "A" => &mut package.architecture,
                "o" => &mut package.upstream,
                "L" => &mut package.license,
                "m" => &mut package.supplier,
                "U" => &mut package.homepage,
                _ => continue,
            };
            value.clone_into(field);
        }
        packages.push(package);
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_one_letter_keys() {
        let text = "C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nU:https://musl.libc.org/\nF:lib\nR:a:b\n\nP:b\nV:2\n\n";
        let found = records(text, "db");
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("musl", "1.2.4-r2"));
        assert_eq!(
            (found[0].license.as_str(), found[0].homepage.as_str()),
            ("MIT", "https://musl.libc.org/")
        );
        assert_eq!((found[1].name.as_str(), found[1].version.as_str()), ("b", "2"));
    }
}
