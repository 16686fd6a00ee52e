//! Tests of the codec: round trips, other programs as second readers and writers, damage.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.append(entry, &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(TarError::Read)?;
        entries.push((entry, data));
    }
    Ok(entries)
}

fn file(path: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    (Entry { size: data.len() as u64, ..Entry::new(path, Kind::File) }, data.to_vec())
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![1u8..=0x2e, 0x30u8..=0xff], 1..30),
        "[a-z]{1,90}".prop_map(String::into_bytes),
    ]
    .prop_filter("dots", |c| !c.iter().all(|b| *b == b'.'))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(component(), 1..6).prop_map(|parts| parts.join(&b'/'))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::HardLink,
        Kind::CharDevice,
        Kind::BlockDevice,
        Kind::Fifo,
    ])
}

prop_compose! {
    fn entry()(
        path in path(),
        kind in kind(),
        mode in 0u32..0o10000,
        uid in prop_oneof![0u32..3_000_000, Just(u32::MAX - 1)],
        gid in prop_oneof![0u32..3_000_000, Just(u32::MAX - 1)],
        mtime_seconds in prop_oneof![-5_000_000_000i64..5_000_000_000, Just(8_589_934_592), Just(68_719_476_736)],
        mtime_nanoseconds in prop_oneof![Just(0u32), 0u32..1_000_000_000],
        data in prop::collection::vec(any::<u8>(), 0..1500),
        link in self::path(),
        major in 0u32..0o10_000_000,
        minor in 0u32..0o10_000_000,
        xattrs in prop::collection::btree_map(
            "[a-z]{1,8}\\.[a-z.]{1,12}".prop_map(String::into_bytes),
            prop::collection::vec(prop_oneof![Just(b'\n'), Just(0), any::<u8>()], 0..40),
            0..3,
        ),
    ) -> (Entry, Vec<u8>) {
        let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let data = if kind == Kind::File { data } else { Vec::new() };
        let entry = Entry {
            path, kind, mode, uid, gid, mtime_seconds, mtime_nanoseconds,
            size: data.len() as u64,
            link: if is_link { link } else { Vec::new() },
            device: if is_device { Device { major, minor } } else { Device::default() },
            xattrs,
        };
        (entry, data)
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..6)) {
        let bytes = archive(&entries);
        prop_assert_eq!(bytes.len() % 512, 0);
        prop_assert_eq!(read_all(&bytes).unwrap(), entries);
    }

    #[test]
    fn skipping_data_finds_the_same_entries(entries in prop::collection::vec(entry(), 0..6)) {
        let bytes = archive(&entries);
        let mut reader = Reader::new(&bytes[..]);
        for (entry, _) in &entries {
            let found = reader.next_entry().unwrap().unwrap();
            prop_assert_eq!(&found, entry);
            let mut some = [0; 7];
            let _ = reader.read(&mut some).unwrap();
        }
        prop_assert!(reader.next_entry().unwrap().is_none());
        prop_assert!(reader.saw_end_marker());
    }

    /// The tar crate as a second reader; it knows no xattrs with newlines and no negative times.
    #[test]
    fn the_tar_crate_agrees(entries in prop::collection::vec(entry(), 1..5)) {
        let entries: Vec<_> = entries.into_iter().map(|(mut entry, data)| {
            entry.xattrs.clear();
            entry.mtime_seconds = entry.mtime_seconds.abs();
            entry.mtime_nanoseconds = 0;
            // It splits records at newlines.
            for name in [&mut entry.path, &mut entry.link] {
                for byte in name.iter_mut().filter(|b| **b == b'\n') {
                    *byte = b'n';
                }
            }
            (entry, data)
        }).collect();
        let bytes = archive(&entries);
        let mut second = ::tar::Archive::new(&bytes[..]);
        let mut count = 0;
        for (found, (entry, data)) in second.entries().unwrap().zip(&entries) {
            let mut found = found.unwrap();
            count += 1;
            let path = found.path_bytes().into_owned();
            prop_assert_eq!(path.strip_suffix(b"/").unwrap_or(&path), &entry.path[..]);
            if matches!(entry.kind, Kind::Symlink | Kind::HardLink) {
                prop_assert_eq!(found.link_name_bytes().unwrap().into_owned(), entry.link.clone());
            }
            prop_assert_eq!(found.header().mode().unwrap(), entry.mode);
            let mut content = Vec::new();
            found.read_to_end(&mut content).unwrap();
            prop_assert_eq!(&content, data);
        }
        prop_assert_eq!(count, entries.len());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read_all(&bytes);
        let _ = pax::parse(&bytes);
    }

    /// One byte of a good archive changed, with the checksum put right again so that more than the checksum is met.
    #[test]
    fn damage_is_survived(
        entries in prop::collection::vec(entry(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = archive(&entries);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let start = at / 512 * 512;
        let block: [u8; 512] = bytes[start..start + 512].try_into().unwrap();
        let mut header = ::tar::Header::from_byte_slice(&block).clone();
        header.set_cksum();
        let _ = read_all(&bytes);
        bytes[start..start + 512].copy_from_slice(header.as_bytes());
        // Whatever was read can be written, or is refused whole, and is read as the same again.
        if let Ok(mut found) = read_all(&bytes) {
            let mut writer = Writer::new(Vec::new());
            found.retain(|(entry, data)| {
                !entry.path.ends_with(b"/") && writer.append(entry, &data[..]).is_ok()
            });
            prop_assert_eq!(read_all(&writer.finish().unwrap()).unwrap(), found);
        }
        let cut = cut.index(bytes.len());
        let _ = read_all(&bytes[..cut]);
    }
}

#[test]
fn small_entries_need_no_records() {
    let bytes = archive(&[file("a", b"x")]);
    assert_eq!(bytes.len(), 512 * 4);
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
    assert_eq!(archive(&[file(&long, b"")]).len(), 512 * 3);
    assert_eq!(read_all(&archive(&[file(&long, b"")])).unwrap()[0].0.path, long.as_bytes());
}

#[test]
fn bytes_are_pinned() {
    let entry = Entry {
        mtime_seconds: -1,
        uid: 3_000_000_000,
        xattrs: BTreeMap::from([(b"security.capability".to_vec(), vec![1, 0, 0, 2, 0x0a])]),
        ..Entry::new("d/\u{e9}", Kind::Directory)
    };
    let bytes = archive(&[(entry, Vec::new()), file("f", b"data")]);
    assert_eq!(
        crate::base::digest::Digest::of(&bytes).to_string(),
        "sha256:d77bfd8ad461eda6e8ad0e43ead144b4d553c5fa33d51ca3c647694a77deb64d"
    );
}

#[test]
fn writer_and_data_must_agree() {
    let (mut entry, data) = file("f", b"abc");
    entry.size = 4;
    let error = Writer::new(Vec::new()).append(&entry, &data[..]).unwrap_err();
    assert!(matches!(error, TarError::ShortData { missing_bytes: 1, .. }));
    entry.size = 2;
    let bytes = archive(&[(entry, data)]);
    assert_eq!(read_all(&bytes).unwrap()[0].1, b"ab");
    let nul = Entry::new(*b"a\0b", Kind::Fifo);
    assert!(Writer::new(Vec::new()).append_empty(&nul).is_err());
    let mut writer = Writer::new(Vec::new());
    let device = Device { major: u32::MAX, minor: 0 };
    let entry = Entry { device, uid: u32::MAX - 1, ..Entry::new("d", Kind::BlockDevice) };
    assert!(writer.append_empty(&entry).is_err());
    assert_eq!(writer.written_bytes(), 0);
}

#[test]
fn streams_that_end_early_are_errors() {
    let long = "n".repeat(300);
    let bytes = archive(&[file(&long, &[7; 1000]), file("second", b"x")]);
    // A file with a long name: x header, records, header, two blocks; then header and block; then the end.
    let whole = [0usize, 5 * 512, 7 * 512, 8 * 512, 9 * 512];
    for cut in (0..bytes.len()).step_by(128) {
        let result = read_all(&bytes[..cut]);
        assert_eq!(result.is_ok(), whole.contains(&cut), "cut at {cut}: {result:?}");
    }
    let mut reader = Reader::new(&bytes[..5 * 512]);
    while reader.next_entry().unwrap().is_some() {}
    assert!(!reader.saw_end_marker());
}

/// Builds raw archives for what our writer never writes.
fn raw(name: &[u8], type_flag: u8, size: u64, magic: &[u8; 8], edit: impl Fn(&mut [u8; 512])) -> Vec<u8> {
    let mut header = ::tar::Header::new_old();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes[156] = type_flag;
    bytes[257..265].copy_from_slice(magic);
    edit(bytes);
    header.set_cksum();
    header.as_bytes().to_vec()
}

const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn records(list: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in list {
        pax::append(&mut out, key.as_bytes(), value.as_bytes());
    }
    out
}

fn with_records(list: &[(&str, &str)]) -> Vec<u8> {
    let data = records(list);
    [raw(b"x", b'x', data.len() as u64, USTAR, |_| {}), padded(&data)].concat()
}

#[test]
fn records_apply_to_files_and_not_to_long_names() {
    // The records state the size of the file. A reader that applies it to the long name is led astray.
    let long = [b"l".repeat(200), vec![0]].concat();
    let bytes = [
        with_records(&[("size", "600")]),
        raw(b"././@LongLink", b'L', long.len() as u64, GNU, |_| {}),
        padded(&long),
        raw(b"short", b'0', 0, GNU, |_| {}),
        padded(&[1; 600]),
        vec![0; 1024],
    ]
    .concat();
    let entries = read_all(&bytes).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((&entries[0].0.path[..], entries[0].1.len()), (&long[..200], 600));
}

#[test]
fn global_records_and_old_directories() {
    let comment = records(&[("comment", "0123"), ("path", "evil")]);
    let bytes = [
        raw(b"pax_global_header", b'g', comment.len() as u64, USTAR, |_| {}),
        padded(&comment),
        raw(b"dir/", 0, 0, &[0; 8], |_| {}),
        raw(b"old", 0, 3, &[0; 8], |_| {}),
        padded(b"abc"),
    ]
    .concat();
    let entries = read_all(&bytes).unwrap();
    assert_eq!((entries[0].0.kind, &entries[0].0.path[..]), (Kind::Directory, &b"dir"[..]));
    assert_eq!((entries[1].0.kind, &entries[1].1[..]), (Kind::File, &b"abc"[..]));
}

#[test]
fn hostile_headers_are_refused() {
    let huge = raw(b"huge", b'0', 0, USTAR, |b| b[124..136].copy_from_slice(b"77777777777\0"));
    assert!(matches!(read_all(&huge), Err(TarError::Read(_) | TarError::Truncated { .. })));
    let mut reader = Reader::new(&huge[..]);
    assert_eq!(reader.next_entry().unwrap().unwrap().size, 0o77_777_777_777);
    assert!(matches!(reader.next_entry(), Err(TarError::Truncated { .. })));

    let beyond =
        [with_records(&[("size", "18446744073709551615")]), raw(b"f", b'0', 0, USTAR, |_| {})].concat();
    assert!(read_all(&beyond).is_err());
    let negative = raw(b"f", b'0', 0, USTAR, |b| b[124..136].fill(0xff));
    assert!(matches!(read_all(&negative), Err(TarError::Range { field: "size", value: -1, .. })));
    let large = raw(b"x", b'x', 1 << 21, USTAR, |_| {});
    assert!(matches!(read_all(&large), Err(TarError::TooLarge { .. })));
    let owner = [with_records(&[("uid", "4294967295")]), raw(b"f", b'0', 0, USTAR, |_| {})].concat();
    assert!(matches!(read_all(&owner), Err(TarError::Range { field: "user id", .. })));
    let multi_volume = raw(b"f", b'M', 0, GNU, |_| {});
    assert!(matches!(read_all(&multi_volume), Err(TarError::UnsupportedType { type_flag: 'M', .. })));
    let data = [raw(b"d/", b'0', 5, USTAR, |_| {}), padded(b"12345")].concat();
    assert!(matches!(read_all(&data), Err(TarError::DirectoryWithData { .. })));
    let lone = with_records(&[("path", "p")]);
    assert!(matches!(read_all(&lone), Err(TarError::Truncated { .. })));
    let nul = [raw(b"L", b'L', 4, GNU, |_| {}), padded(b"a\0b\0"), raw(b"f", b'0', 0, GNU, |_| {})].concat();
    assert!(matches!(read_all(&nul), Err(TarError::NulInName { .. })));
    let mut wrong = raw(b"f", b'0', 0, USTAR, |_| {});
    wrong[0] ^= 1;
    assert!(matches!(read_all(&wrong), Err(TarError::Checksum { offset: 0 })));
    // A hard link that states a size has no data all the same.
    let link =
        [raw(b"l", b'1', 512, USTAR, |b| b[157] = b'f'), raw(b"next", b'0', 0, USTAR, |_| {})].concat();
    assert_eq!(read_all(&link).unwrap()[1].0.path, b"next");
}

#[test]
fn sparse_maps_are_checked() {
    let v01 = |map: &str, size: &str, stored: usize| {
        [
            with_records(&[("GNU.sparse.size", size), ("GNU.sparse.map", map), ("GNU.sparse.name", "real")]),
            raw(b"f", b'0', stored as u64, USTAR, |_| {}),
            padded(&vec![b'x'; stored]),
        ]
        .concat()
    };
    let entries = read_all(&v01("2,3,10,0", "10", 3)).unwrap();
    assert_eq!((&entries[0].0.path[..], &entries[0].1[..]), (&b"real"[..], &b"\0\0xxx\0\0\0\0\0"[..]));
    for (map, size, stored) in [
        ("5,3,2,3", "10", 6),
        ("2,3,10", "10", 3),
        ("2,3", "4", 3),
        ("2,3", "10", 4),
        ("18446744073709551615,2", "18446744073709551615", 2),
        ("0,1", "18446744073709551615", 1),
    ] {
        assert!(matches!(read_all(&v01(map, size, stored)), Err(TarError::Sparse { .. })), "{map} {size}");
    }
    // Eight exbibytes of nothing: holes are passed by, not read.
    let bytes = v01("9223372036854775800,1", "9223372036854775807", 1);
    let mut reader = Reader::new(&bytes[..]);
    reader.next_entry().unwrap().unwrap();
    assert_eq!(reader.take_hole(), 9_223_372_036_854_775_800);
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 1);
    assert_eq!(reader.take_hole(), 6);
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
    assert!(reader.next_entry().unwrap().is_none());
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> Option<Vec<u8>> {
    let output = Command::new(program).args(arguments).current_dir(dir).env("LC_ALL", "C").output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: `{program}` is not installed");
        return None;
    };
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn archives_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("t");
    let deep = "long-name-".repeat(9);
    std::fs::create_dir_all(root.join(&deep).join(&deep)).unwrap();
    std::fs::write(root.join(&deep).join(&deep).join("f"), "deep").unwrap();
    std::fs::write(root.join("h"), "hello").unwrap();
    std::fs::hard_link(root.join("h"), root.join("i")).unwrap();
    std::os::unix::fs::symlink("t/".repeat(70), root.join("s")).unwrap();
    // Holes around many pieces, so that the old format needs extension blocks.
    let mut content = vec![0u8; 4 << 20];
    {
        use std::os::unix::fs::FileExt as _;
        let sparse = std::fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(content.len() as u64).unwrap();
        for piece in 0..40usize {
            let at = piece * 100_000 / 4096 * 4096 + 8192;
            content[at..at + 4].copy_from_slice(b"data");
            sparse.write_all_at(b"data", at as u64).unwrap();
        }
    }
    let v = ["--format=v7", "--format=ustar", "--format=gnu", "--format=pax"];
    let sparse = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"];
    let variants = v.iter().skip(2).map(|f| vec![*f]).chain([vec!["--format=gnu", "-S"]]);
    for mut options in variants.chain(sparse.iter().map(|s| vec!["--format=pax", "-S", *s])) {
        options.extend(["--sort=name", "-cf", "-", "t"]);
        let Some(bytes) = run("tar", &options, dir.path()) else { return };
        let entries = read_all(&bytes).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        let find = |name: &str| {
            entries
                .iter()
                .find(|(e, _)| e.path == name.as_bytes())
                .unwrap_or_else(|| panic!("{options:?}: {name}"))
        };
        assert_eq!(find(&format!("t/{deep}/{deep}/f")).1, b"deep");
        assert_eq!((find("t/i").0.kind, &find("t/i").0.link[..]), (Kind::HardLink, &b"t/h"[..]));
        assert_eq!(find("t/s").0.link, "t/".repeat(70).as_bytes());
        assert!(find("t/sparse").1 == content, "{options:?}");
    }
}

#[test]
fn other_readers_understand_our_archives() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(120));
    let entries = vec![
        (Entry { mtime_seconds: -77, ..Entry::new("neg", Kind::Directory) }, Vec::new()),
        (Entry { uid: 3_000_000_000, gid: 2_097_152, ..file("ids", b"1").0 }, b"1".to_vec()),
        file(&long, b"long"),
        (Entry { path: b"raw-\xff\xfe".to_vec(), ..file("", b"raw").0 }, b"raw".to_vec()),
        (Entry { link: b"ids".to_vec(), ..Entry::new("hard", Kind::HardLink) }, Vec::new()),
        (
            Entry {
                xattrs: BTreeMap::from([(b"security.capability".to_vec(), vec![1, 0, 0, 2, 0x0a, 0, b'\n'])]),
                ..Entry::new("cap", Kind::Fifo)
            },
            Vec::new(),
        ),
    ];
    let bytes = archive(&entries);
    std::fs::write(dir.path().join("a.tar"), &bytes).unwrap();
    if let Some(listing) =
        run("tar", &["--numeric-owner", "--quoting-style=escape", "-tvf", "a.tar"], dir.path())
    {
        let listing = String::from_utf8_lossy(&listing).into_owned();
        assert_eq!(listing.lines().count(), entries.len(), "{listing}");
        for part in ["3000000000/2097152", &long, "raw-\\377\\376", "hard link to ids", "1969-12-31"] {
            assert!(listing.contains(part), "{part} in {listing}");
        }
    }
    let script = "import tarfile,sys\n\
        for m in tarfile.open('a.tar'):\n\
        \x20 c=m.pax_headers.get('SCHILY.xattr.security.capability','')\n\
        \x20 sys.stdout.buffer.write(b'%s|%d|%d|%d|%s\\n' % (m.name.encode('utf-8','surrogateescape'),m.mtime,m.uid,m.gid,c.encode('utf-8','surrogateescape').hex().encode()))";
    if let Some(out) = run("python3", &["-c", script], dir.path()) {
        let lines: Vec<_> = out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.len(), entries.len());
        for (line, (entry, _)) in lines.iter().zip(&entries) {
            let mut expected = entry.path.clone();
            let cap: String = entry.xattrs.values().flatten().map(|b| format!("{b:02x}")).collect();
            let rest = format!("|{}|{}|{}|{cap}", entry.mtime_seconds, entry.uid, entry.gid);
            expected.extend_from_slice(rest.as_bytes());
            assert_eq!(String::from_utf8_lossy(line), String::from_utf8_lossy(&expected));
        }
    }
}

#[test]
fn the_first_entry_decides_what_is_an_archive() {
    assert!(begins_with_entry(&archive(&[file("f", b"")])[..]));
    assert!(!begins_with_entry(&archive(&[])[..]));
    assert!(!begins_with_entry(&b""[..]));
    assert!(!begins_with_entry(&b"this is not an archive\n"[..]));
    assert!(!begins_with_entry(&[b'x'; 600][..]));
    assert!(begins_with_entry(&raw(b"f", b'M', 0, GNU, |_| {})[..]));
}
