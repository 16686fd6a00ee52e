//! Heredocs of RUN and COPY.

use crate::project::Project;

#[test]
fn run_takes_a_script() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nARG WHO=world\nRUN <<EOF\nfalse\necho \"hello $WHO\" > /greeting\nEOF\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("greeting"), "hello world\n", "no -e: a failing line in the middle is passed over");
}

#[test]
fn run_obeys_a_shebang_and_leaves_no_script_behind() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print 6 * 7 > \"/answer\" }\nEOF\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("answer"), "42\n");
    assert_eq!(image.layers[1].names, ["answer"]);
}

#[test]
fn run_gives_a_heredoc_to_a_command() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN cat > /copied <<'EOF'\n$HOME stays\nEOF\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("copied"), "$HOME stays\n");
}

#[test]
fn copy_makes_files_of_heredocs() {
    let text = "FROM scratch\nARG V=value\nCOPY --chmod=755 <<one.sh <<\"two.txt\" /dir/\n#!/bin/sh\necho $V\none.sh\nraw $V\ntwo.txt\n";
    let image = Project::new().buildfile(text).build(&[]).image();
    assert_eq!(image.text("dir/one.sh"), "#!/bin/sh\necho value\n");
    assert_eq!(image.text("dir/two.txt"), "raw $V\n");
    assert_eq!(image.entry("dir/one.sh").mode, 0o755);
}

#[test]
fn copy_of_a_heredoc_is_world_readable_and_strips_tabs_on_demand() {
    let text = "FROM scratch\nCOPY <<-EOF /f\n\t\tindented\n\tEOF\n";
    let image = Project::new().buildfile(text).build(&[]).image();
    assert_eq!(image.text("f"), "indented\n");
    assert_eq!((image.entry("f").mode, image.entry("f").uid), (0o644, 0));
}
