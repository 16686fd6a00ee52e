mod faults;
mod faulty_registry;

use super::*;
use crate::context::layout::LayoutRef;
use crate::image::reference::Reference;

#[test]
fn places() {
    let parsed = |text: &str| text.parse::<Place>().unwrap();
    let reference = |text: &str| text.parse::<Reference>().unwrap();
    assert_eq!(parsed("docker://debian"), Place::Registry(reference("debian")));
    assert_eq!(parsed("h:1/x:2"), Place::Named(reference("h:1/x:2"), "h:1/x:2".to_owned()));
    let layout = |path: &str, tag: Option<&str>| LayoutRef {
        path: path.into(),
        tag: tag.map(str::to_owned),
        digest: None,
    };
    assert_eq!(parsed("oci:/no/such"), Place::Layout(layout("/no/such", None)));
    assert_eq!(parsed("oci:/no/such:1"), Place::Layout(layout("/no/such", Some("1"))));
    assert_eq!(parsed("oci-layout:///no/such:1"), Place::Layout(layout("/no/such", Some("1"))));
    assert_eq!(parsed("./no/such"), Place::Layout(layout("./no/such", None)));
    assert_eq!(parsed("oci-archive:a.tar:1"), Place::OciArchive(layout("a.tar", Some("1"))));
    assert_eq!(
        parsed("docker-archive:a.tar:h:1/x:2"),
        Place::DockerArchive("a.tar".into(), Some(reference("h:1/x:2")))
    );
    for text in ["docker://h/x:1", "oci:d:1", "oci-archive:f", "docker-archive:f:x:1"] {
        assert_eq!(parsed(text).to_string(), text);
    }
    for bad in ["docker://UPPER", "oci:", "docker-archive:", "containers-storage:x", "docker-daemon:x", ""] {
        assert!(bad.parse::<Place>().is_err(), "{bad}");
    }
}
