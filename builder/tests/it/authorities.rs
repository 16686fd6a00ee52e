//! `--ca-bundle`: seen by every RUN, kept by no image.

use crate::project::{Ended, Project};

const BUNDLE: &str =
    "-----BEGIN CERTIFICATE-----\nQSBjb21wYW55J3Mgb3duIGF1dGhvcml0eQ==\n-----END CERTIFICATE-----\n";
const OWN: &str = "-----BEGIN CERTIFICATE-----\nVGhlIGltYWdlJ3MgYXV0aG9yaXR5\n-----END CERTIFICATE-----\n";
const DEBIAN: &str = "etc/ssl/certs/ca-certificates.crt";

fn with_bundle(text: &str) -> Option<Project> {
    let project = Project::with_base()?.file("own.crt", OWN).buildfile(text);
    std::fs::write(project.path("bundle.pem"), BUNDLE).expect("bundle");
    Some(project)
}

/// Nothing that was put out has the bundle in it.
fn assert_kept_out(archive: &std::path::Path) {
    // Layers are compressed, so their files are looked at.
    let needle = b"QSBjb21wYW55";
    for (path, entry) in &crate::image::Image::read_archive(archive).files {
        let found = entry.data.windows(needle.len()).any(|window| window == needle);
        assert!(!found, "the bundle is in /{path}");
    }
}

#[test]
fn an_image_without_a_bundle_gets_one_during_run() {
    let text = format!(
        "FROM base\nRUN mkdir -p /etc/ssl/certs\nRUN --network=none cmp /{DEBIAN} /run/kiln/ca-bundle.pem && echo same > /sum; \
         for v in SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE PIP_CERT NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO CARGO_HTTP_CAINFO; \
         do eval test \\$$v = /run/kiln/ca-bundle.pem || echo $v >> /wrong; done; grep -q /run/kiln/ca-bundle.pem $APT_CONFIG || echo apt >> /wrong\n\
         RUN test -s /{DEBIAN} && echo again > /again\n"
    );
    let Some(project) = with_bundle(&text) else { return };
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    let image = built.image();
    assert!(image.has("etc/ssl/certs"), "a directory that a command made is missing");
    assert!(image.has("sum") && image.has("again") && !image.has("wrong"));
    for path in [DEBIAN, "run/kiln", "etc/pki"] {
        assert!(!image.has(path), "/{path} is left");
    }
    assert_eq!(image.layers[2].names, ["sum"]);
    assert_kept_out(&built.archive);
}

#[test]
fn a_bundle_of_the_image_is_covered_and_unchanged() {
    // Where Fedora has it, and a symlink that leads there.
    let text = "FROM base\nRUN mkdir -p /etc/pki/ca-trust/extracted/pem /etc/pki/tls/certs /etc/ssl\n\
                COPY own.crt /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem\n\
                RUN ln -s ../../ca-trust/extracted/pem/tls-ca-bundle.pem /etc/pki/tls/certs/ca-bundle.crt && chmod 750 /etc/pki\n\
                RUN cmp /etc/pki/tls/certs/ca-bundle.crt /run/kiln/ca-bundle.pem && stat -c %a /etc/pki > /mode && ls /etc/ssl > /list\n\
                RUN touch /etc/pki/new\n";
    let Some(project) = with_bundle(text) else { return };
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    let image = built.image();
    assert_eq!(image.text("etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"), OWN);
    assert_eq!(image.text("mode"), "750\n");
    assert_eq!(image.text("list"), "", "a bundle was put where the image has none");
    assert_eq!(image.entry("etc/pki").mode & 0o777, 0o750);
    assert_kept_out(&built.archive);
}

#[test]
fn a_command_may_replace_the_bundle() {
    // What update-ca-certificates does: a new file beside it, renamed over the old one.
    let text = format!(
        "FROM base\nCOPY own.crt /usr/share/own.crt\nRUN mkdir -p /etc/ssl/certs && cp /usr/share/own.crt /{DEBIAN}\n\
         RUN cat /usr/share/own.crt /usr/share/own.crt > /{DEBIAN}.new && mv -f /{DEBIAN}.new /{DEBIAN} && cat $SSL_CERT_FILE | md5sum > /sum\n"
    );
    let Some(project) = with_bundle(&text) else { return };
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    assert_eq!(built.image().text(DEBIAN), format!("{OWN}{OWN}"));
    assert_kept_out(&built.archive);
    // And in the step that brings the file in the first place.
    project.write(
        "Buildfile",
        format!("FROM base\nCOPY own.crt /own.crt\nRUN mkdir -p /etc/ssl/certs && cp /own.crt /tmp/new && mv -f /tmp/new /{DEBIAN}\n"),
    );
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    assert_eq!(built.image().text(DEBIAN), OWN);
    assert_kept_out(&built.archive);
}

#[test]
fn what_is_changed_in_place_keeps_the_images_part() {
    let prepare = format!("FROM base\nCOPY own.crt /{DEBIAN}\n");
    let Some(project) = with_bundle(&format!("{prepare}RUN echo added >> /{DEBIAN}\n")) else { return };
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    assert_eq!(built.image().text(DEBIAN), format!("{OWN}added\n"));
    assert_kept_out(&built.archive);
    project.write("Buildfile", format!("{prepare}RUN chmod 600 /{DEBIAN} && ln /{DEBIAN} /other\n"));
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    let image = built.image();
    assert_eq!((image.text(DEBIAN).as_str(), image.entry(DEBIAN).mode & 0o777), (OWN, 0o600));
    assert_eq!(image.text("other"), OWN);
    assert_kept_out(&built.archive);
    project.write("Buildfile", format!("{prepare}RUN rm /{DEBIAN}\n"));
    assert!(!project.build(&["--ca-bundle", "bundle.pem"]).image().has(DEBIAN));
    // Where the image has none, a changed mode is nothing to keep.
    project.write(
        "Buildfile",
        format!("FROM base\nRUN mkdir -p /etc/ssl/certs\nRUN chmod 600 /{DEBIAN} && echo x > /f\n"),
    );
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    assert_eq!(built.image().layers[2].names, ["f"]);
    project
        .write("Buildfile", format!("FROM base\nRUN mkdir -p /etc/ssl/certs\nRUN echo added >> /{DEBIAN}\n"));
    let built = project.build(&["--ca-bundle", "bundle.pem"]);
    assert_eq!(built.image().text(DEBIAN), "added\n");
    assert_kept_out(&built.archive);
}

#[test]
fn it_is_not_in_the_key_and_the_buildfile_wins() {
    let Some(project) =
        with_bundle("FROM base\nENV SSL_CERT_FILE=/mine\nRUN echo $SSL_CERT_FILE $CURL_CA_BUNDLE > /v\n")
    else {
        return;
    };
    let image = project.build(&["--ca-bundle", "bundle.pem"]).image();
    assert_eq!(image.text("v"), "/mine /run/kiln/ca-bundle.pem\n");
    let again = project.build(&[]);
    again.succeeds();
    assert!(again.executed().is_empty(), "{}", again.log());
}

#[test]
fn kiln_run_has_it_too() {
    let Some(project) = with_bundle("FROM base\nRUN mkdir -p /etc/ssl/certs\n") else { return };
    Ended::of(&mut project.build_command(["-t", "made", "-o", "type=image"])).ok();
    let show = format!("cat /{DEBIAN}");
    let ended = project.run(&["run", "--ca-bundle", "bundle.pem", "made", "sh", "-c", &show]).ok();
    assert_eq!(ended.stdout, BUNDLE);
}

#[test]
fn what_is_no_bundle_is_refused() {
    let Some(project) = with_bundle("FROM base\nRUN true\n") else { return };
    std::fs::write(project.path("text"), "hello").expect("file");
    std::fs::write(project.path("key"), format!("{BUNDLE}-----BEGIN PRIVATE KEY-----\n")).expect("file");
    project.build(&["--ca-bundle", "text"]).fails(2, &["text", "certificate"]);
    project.build(&["--ca-bundle", "key"]).fails(2, &["private key"]);
    project.build(&["--ca-bundle", "none"]).fails(2, &["none"]);
}
