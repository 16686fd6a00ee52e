use kiln::sandbox::{runner::*, spec::*, zygote, net::Policy};
use kiln::sys::userns;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(zygote::ARGUMENT) { zygote::main() }
    let root = rustix::process::geteuid().is_root();
    if !root { eprintln!("{:?}", userns::enter().unwrap()); }
    let store = std::path::PathBuf::from(&args[1]);
    let map = root.then(userns::IdMap::for_root);
    let sandboxes = Sandboxes::new(&store, map);
    let n: usize = args[2].parse().unwrap();
    for i in 0..n {
        let up = store.join(format!("snapshots/u{i}"));
        let _ = std::fs::remove_dir_all(&up);
        std::fs::create_dir_all(up.join("fs")).unwrap(); std::fs::create_dir_all(up.join("work")).unwrap();
        let spec = SandboxSpec { lowers: vec!["snapshots/base/fs".into(), "stubs/x".into()], upper: (format!("snapshots/u{i}/fs"), format!("snapshots/u{i}/work")),
            args: args[3..].to_vec(), env: vec!["PATH=/bin".into()], cwd: "/w".into(), user: "".into(), hostname: "box".into(), mounts: vec![
              SandboxMount{ target: "/run/secrets/x".into(), source: SandboxSource::File{content: b"sec".to_vec(), mode: 0o400, uid:0, gid:0}, read_only: false },
              SandboxMount{ target: "/tt".into(), source: SandboxSource::Tmpfs{size_bytes: Some(1<<20)}, read_only: false }],
            network: SandboxNetwork::Private, insecure: false, limits: vec![], shm_size_bytes: 1<<20, resolv_conf: Some("nameserver 1.2.3.4\n".into()), hosts: Some("127.0.0.1 localhost\n".into()), ids: sandboxes.ids().unwrap(), ipv6: false, terminal: false };
        let mut out = |_s, d: &[u8]| { if n == 1 { print!("{}", String::from_utf8_lossy(d)) } };
        let r = sandboxes.run(&spec, Policy::default(), Streams::Captured(&mut out), &|_| Box::new(()), &Default::default());
        if n == 1 || r.is_err() { println!("{r:?}"); }
    }
}
