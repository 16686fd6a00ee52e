//! A real namespace, a real proxy, and real connections through both.
//!
//! The test starts itself again under unshare(1) in a new user and network namespace; that process configures
//! the namespace, sends its sockets here, and then plays the RUN. Where namespaces are not permitted the test
//! says so and passes.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::*;

const ROLE: &str = "KILN_TEST_NET_CHILD";
const PORTS: &str = "KILN_TEST_NET_PORTS";
const OWN_ADDRESS: &str = "KILN_TEST_NET_OWN_ADDRESS";
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));
const BIG: usize = 100 * 1024 * 1024;
const DNS_QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01";

/// What the process in the namespace needs to know.
struct Ports {
    echo: u16,
    counter: u16,
    resetter: u16,
    closed: u16,
    /// On [`own_address`].
    outside: u16,
}

/// An address of this machine other than loopback, where there is one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("8.8.8.8:53").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

fn serve(listener: TcpListener, each: impl Fn(TcpStream) + Send + Copy + 'static) -> u16 {
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || each(stream));
        }
    });
    port
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Answers with the number of bytes received, once the other side has ended its sending.
fn count(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let _ = stream.write_all(bytes.len().to_string().as_bytes());
}

fn reset(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 16]);
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// Starts a nameserver on loopback that answers a query with itself, marked as a response with `code`.
fn start_nameserver(code: u8) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = tcp.local_addr().expect("bound");
    let udp = UdpSocket::bind(address).expect("bind");
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((count, client)) = udp.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            buffer[3] = code;
            let _ = udp.send_to(&buffer[..count], client);
        }
    });
    serve(tcp, echo);
    address
}

fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("bind")
}

fn send_fds(stream: &UnixStream, fds: &[OwnedFd]) {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    rustix::net::sendmsg(stream, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("sendmsg");
}

fn receive_fds(stream: &UnixStream) -> Vec<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("recvmsg");
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.flatten().collect()
}

#[test]
fn connections_and_queries_pass_through() {
    let allowed = Command::new("unshare").args(["-Urn", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!(
            "SKIPPED connections_and_queries_pass_through: user and network namespaces are not permitted"
        );
        return;
    }
    let folder = tempfile::tempdir().expect("temp dir");
    let socket_path = folder.path().join("channels");
    let control = UnixListener::bind(&socket_path).expect("bind");
    let local = || TcpListener::bind("127.0.0.1:0").expect("bind");
    let outside = TcpListener::bind("0.0.0.0:0").expect("bind");
    let ports = [
        serve(local(), echo),
        serve(local(), count),
        serve(local(), reset),
        closed_port().port(),
        serve(outside, echo),
    ];
    let mut child = Command::new("unshare")
        .arg("-Urn")
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", "sandbox::net::tests::inside_the_namespace", "--nocapture", "--test-threads=1"])
        .env(ROLE, &socket_path)
        .env(PORTS, ports.map(|port| port.to_string()).join(","))
        .env(OWN_ADDRESS, own_address().map(|ip| ip.to_string()).unwrap_or_default())
        .stdout(Stdio::null())
        .spawn()
        .expect("start");

    // The order: a server that is not there, one that refuses, one that answers.
    let mut policy = Policy {
        nameservers: vec![closed_port(), start_nameserver(5), start_nameserver(0)],
        host_gateway: Some(HOST_GATEWAY_V4.into()),
        ..Policy::default()
    };
    let (send_refusal, refusals) = mpsc::channel();
    policy.on_refusal = Some(std::sync::Arc::new(move |destination, refusal| {
        let _ = send_refusal.send((destination, refusal));
    }));
    let (mut stream, _) = control.accept().expect("accept");
    let fds = receive_fds(&stream);
    if fds.is_empty() {
        eprintln!("SKIPPED connections_and_queries_pass_through: this kernel has no nf_tables");
        assert!(child.wait().expect("wait").success());
        return;
    }
    let again = Channels::from_fds(fds.iter().map(|fd| fd.try_clone().expect("dup")).collect(), false);
    let proxy = Proxy::start(again.expect("channels"), policy.clone()).expect("start");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("first part in the namespace passed");
    drop(proxy);
    stream.write_all(b"1").expect("the child waits");

    // The second part: permission for this machine's addresses, and nameservers that only refuse.
    policy.allow_host = true;
    policy.nameservers = vec![closed_port(), start_nameserver(5)];
    let channels = Channels::from_fds(fds, false).expect("channels");
    stream.read_exact(&mut byte).expect("the child saw its connection end");
    let proxy = Proxy::start(channels, policy).expect("start");
    stream.write_all(b"2").expect("the child waits");
    assert!(child.wait().expect("wait").success());
    drop(proxy);

    let refusals: Vec<_> = refusals.try_iter().collect();
    if let Some(own) = own_address() {
        assert_eq!(refusals, [(SocketAddr::new(own, ports[4]), Refusal::HostAddress)]);
    }
}

#[test]
fn mode_none_has_loopback_only() {
    let allowed = Command::new("unshare").args(["-Urn", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED mode_none_has_loopback_only: user and network namespaces are not permitted");
        return;
    }
    let status = Command::new("unshare")
        .arg("-Urn")
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", "sandbox::net::tests::inside_the_namespace", "--nocapture", "--test-threads=1"])
        .env(ROLE, "none")
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("start").success());
}

/// Not a test of its own: the process in the namespace.
#[test]
fn inside_the_namespace() {
    let Some(path) = std::env::var_os(ROLE) else { return };
    if path == "none" {
        assert!(configure_namespace(NetworkMode::None).expect("configure").is_none());
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        connect(listener.local_addr().expect("bound"));
        let error = TcpStream::connect("1.1.1.1:80").expect_err("no way out");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
        return;
    }
    let mut control = UnixStream::connect(path).expect("connect");
    let channels = match configure_namespace(NetworkMode::Private { ipv6: true }) {
        Ok(channels) => channels.expect("private mode has channels"),
        Err(NetError::NftMissing { source }) => {
            eprintln!("no nf_tables: {source:?}");
            return;
        }
        Err(error) => panic!("{error:?}"),
    };
    let listener =
        SocketAddr::try_from(rustix::net::getsockname(&channels.v4.tcp).expect("name")).expect("ip");
    let has_ipv6 = channels.v6.is_some();
    send_fds(&control, &channels.into_fds());

    let numbers = std::env::var(PORTS).expect("set");
    let mut numbers = numbers.split(',').map(|port| port.parse::<u16>().expect("number"));
    let mut next = || numbers.next().expect("five");
    let ports = Ports { echo: next(), counter: next(), resetter: next(), closed: next(), outside: next() };

    local_traffic_stays(listener);
    data_passes_both_ways(&ports);
    ends_and_resets_pass(&ports);
    unreachable_is_refused(&ports);
    names_are_resolved(has_ipv6);

    // A connection that is open when the proxy goes ends with it.
    let mut open = connect(gateway(ports.echo));
    open.write_all(b"x").expect("write");
    open.read_exact(&mut [0]).expect("echo");
    let mut byte = [0];
    control.write_all(b"1").expect("the parent waits");
    control.read_exact(&mut byte).expect("the proxy is gone");
    assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)));
    control.write_all(b"2").expect("the parent waits");
    control.read_exact(&mut byte).expect("the second proxy is there");

    if let Some(own) = own_address_of_host() {
        let mut stream = connect(SocketAddr::new(own, ports.outside));
        stream.write_all(b"x").expect("write");
        stream.read_exact(&mut byte).expect("allowed now");
    }
    assert_eq!(ask(8).map(|answer| answer[3] & 15).ok(), Some(5), "the refusal is passed on");
}

/// [`own_address`] as the parent sees it.
fn own_address_of_host() -> Option<IpAddr> {
    std::env::var(OWN_ADDRESS).ok()?.parse().ok()
}

fn gateway(port: u16) -> SocketAddr {
    SocketAddr::new(HOST_GATEWAY_V4.into(), port)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(PATIENCE).expect("set");
    stream.set_write_timeout(PATIENCE).expect("set");
    stream
}

fn local_traffic_stays(proxy_listener: SocketAddr) {
    for address in [IpAddr::from([127, 0, 0, 1]), NAMESPACE_ADDRESS_V4.into()] {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).expect("bind");
        let mut client = connect(listener.local_addr().expect("bound"));
        let (mut server, _) = listener.accept().expect("accept");
        client.write_all(b"local").expect("write");
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"local");
        let a = UdpSocket::bind(SocketAddr::new(address, 0)).expect("bind");
        a.send_to(b"y", a.local_addr().expect("bound")).expect("send");
        assert_eq!(a.recv(&mut buffer).ok(), Some(1));
    }
    // The proxy's own listener leads nowhere.
    assert_reset(proxy_listener);
}

fn data_passes_both_ways(ports: &Ports) {
    let mut stream = connect(gateway(ports.echo));
    for size in [1usize, 2, 65_536, 1_000_003] {
        let sent: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        let mut other = stream.try_clone().expect("dup");
        let copy = sent.clone();
        let writer = std::thread::spawn(move || other.write_all(&copy));
        let mut received = vec![0; size];
        stream.read_exact(&mut received).expect("read");
        writer.join().expect("join").expect("write");
        assert!(sent == received);
    }
    // A large transfer, in both directions at the same time.
    let mut other = stream.try_clone().expect("dup");
    let writer = std::thread::spawn(move || {
        let block: Vec<u8> = (0..251 * 1024).map(|index| (index % 251) as u8).collect();
        let mut left = BIG;
        while left > 0 {
            let count = left.min(block.len());
            other.write_all(&block[..count]).expect("write");
            left -= count;
        }
        other.shutdown(Shutdown::Write).expect("shutdown");
    });
    let (mut buffer, mut total) = (vec![0; 300_000], 0usize);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        assert!(buffer[..count].iter().enumerate().all(|(at, byte)| *byte == ((total + at) % 251) as u8));
        total += count;
    }
    writer.join().expect("join");
    assert_eq!(total, BIG);
    // Many at once.
    let many: Vec<_> = (0..200).map(|_| connect(gateway(ports.echo))).collect();
    for (index, mut stream) in many.iter().enumerate() {
        stream.write_all(&[index as u8; 3]).expect("write");
    }
    for (index, mut stream) in many.iter().enumerate() {
        let mut buffer = [0; 3];
        stream.read_exact(&mut buffer).expect("read");
        assert_eq!(buffer, [index as u8; 3]);
    }
}

fn ends_and_resets_pass(ports: &Ports) {
    let mut stream = connect(gateway(ports.counter));
    stream.write_all(&[7; 100_000]).expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    assert_eq!(text, "100000");

    let mut stream = connect(gateway(ports.resetter));
    stream.write_all(b"x").expect("write");
    let error = stream.read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn unreachable_is_refused(ports: &Ports) {
    assert_reset(gateway(ports.closed));
    for address in
        ["169.254.169.254:80", "0.1.2.3:80", "127.0.0.1:1", "[::1]:1", "[fe80::1]:80", "224.0.0.1:80"]
    {
        let result = TcpStream::connect(address.parse::<SocketAddr>().expect("address"));
        assert!(result.is_err(), "{address}");
    }
    if let Some(own) = own_address_of_host() {
        assert_reset(SocketAddr::new(own, ports.outside));
    }
    for address in ["1.1.1.1:443", "192.0.0.1:123", "255.255.255.254:9"] {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(PATIENCE).expect("set");
        let refused = socket
            .connect(address)
            .and_then(|()| socket.send(b"x"))
            .and_then(|_| socket.recv(&mut [0]))
            .expect_err(address);
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}

/// The connection is taken and then reset, without data.
fn assert_reset(address: SocketAddr) {
    let mut stream = connect(address);
    let error = stream.read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{address}");
}

fn ask(server_octet: u8) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(PATIENCE)?;
    socket.connect(SocketAddr::from(([server_octet; 4], 53)))?;
    socket.send(DNS_QUERY)?;
    let mut buffer = [0; 512];
    let count = socket.recv(&mut buffer)?;
    Ok(buffer[..count].to_vec())
}

fn names_are_resolved(has_ipv6: bool) {
    let mut expected = DNS_QUERY.to_vec();
    expected[2] |= 0x80;
    assert_eq!(ask(8).ok(), Some(expected.clone()));
    // More at once than are let through together.
    let workers: Vec<_> =
        (0..300).map(|index| std::thread::spawn(move || ask(1 + (index % 100) as u8))).collect();
    for worker in workers {
        assert_eq!(worker.join().expect("join").ok(), Some(expected.clone()));
    }
    let mut servers = vec!["9.9.9.9:53"];
    if has_ipv6 {
        let socket = UdpSocket::bind("[::]:0").expect("bind");
        socket.set_read_timeout(PATIENCE).expect("set");
        socket.connect("[2001:db8::1]:53").expect("connect");
        socket.send(DNS_QUERY).expect("send");
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).expect("answer over IPv6");
        assert_eq!(buffer[..count], expected);
        socket.connect("[2001:db8::1]:443").expect("connect");
        socket.send(b"x").expect("send");
        let refused = socket.recv(&mut buffer).expect_err("refused over IPv6");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        servers.push("[2001:db8::1]:53");
    } else {
        eprintln!("SKIPPED the IPv6 part: the namespace has none");
    }
    // TCP goes to the nameservers too, here servers that echo.
    for server in servers {
        let mut stream = connect(server.parse().expect("address"));
        stream.write_all(b"\0\x02hi").expect("write");
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"\0\x02hi");
    }
}

#[test]
fn a_dropped_proxy_closes_everything() {
    let socket = |kind| bound_socket(Ipv4Addr::LOCALHOST.into(), 0, kind, "of a test").expect("socket");
    for _ in 0..20 {
        let ((tcp, port), (dns, _)) = (socket(SocketType::STREAM), socket(SocketType::DGRAM));
        rustix::net::listen(&tcp, 16).expect("listen");
        let channels = Channels { v4: FamilyChannels { tcp, dns }, v6: None, direct: false };
        let proxy = Proxy::start(channels, Policy::default()).expect("start");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        // Not redirected, so there is no destination to connect to.
        assert_reset(address);
        let mut waiting = connect(address);
        drop(proxy);
        assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
        // Another test's child may hold a copy of the listener for the moment between fork and exec.
        let is_gone = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            TcpStream::connect(address).is_err()
        });
        assert!(is_gone);
    }
}

#[test]
fn channels_come_apart_and_together() {
    let fd = || -> OwnedFd { UdpSocket::bind("127.0.0.1:0").expect("bind").into() };
    for count in [2, 4] {
        let channels = Channels::from_fds((0..count).map(|_| fd()).collect(), false).expect("right number");
        assert_eq!(channels.into_fds().len(), count);
    }
    for count in [0, 1, 3, 5] {
        let error = Channels::from_fds((0..count).map(|_| fd()).collect(), false).expect_err("wrong number");
        assert!(matches!(error, NetError::ChannelCount { count: named } if named == count));
    }
}
