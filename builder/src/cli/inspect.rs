//! `kiln inspect`.

use std::path::PathBuf;

use serde_json::json;

use super::args::InspectArgs;
use super::args::transfer::Format;
use super::compare::existing_store;
use super::failure::of_transfer;
use super::transfer::{Mover, access_for};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Index, Manifest};
use crate::image::platform::Platform;
use crate::transfer::{Inventory, Origin, Place, StoredStatement, TransferError, index_of, statements};
use crate::ui::failure::{Failure, Kind};
use crate::ui::progress::Mode;
use crate::ui::table::{Align, Table};
use crate::ui::{print, size, terminal, text};

/// Layers have histories of any length.
const MAX_COMMAND_COLUMNS: usize = 80;

/// `kiln inspect`.
pub(super) fn inspect(root: Option<PathBuf>, args: &InspectArgs) -> Result<u8, Failure> {
    let mover = Mover::start(Mode::None)?;
    let store = existing_store(root)?;
    let client = mover.client(&access_for(&args.access, [args.image.reference()])?)?;
    let fail = |error: TransferError| of_transfer(&error);
    let origin = Origin::open(&args.image, store.as_ref(), &client).map_err(fail)?;
    let content = &*origin.content;
    if args.raw && args.choice.platform.is_none() {
        let bytes = content.document(&origin.root).map_err(fail)?;
        return printed(&bytes);
    }
    let index = index_of(content, &origin.root).map_err(fail)?;
    let platform = chosen(args.choice.platform.as_ref(), index.as_ref());
    let inventory = Inventory::read(content, &origin.root, Some(&platform)).map_err(fail)?;
    if args.raw {
        return printed(&inventory.root().bytes);
    }
    let image = inventory.root().descriptor.digest;
    let statements = match &index {
        Some(index) => statements(content, index, &image).map_err(fail)?,
        None => Vec::new(),
    };
    if args.provenance {
        let found = statements.iter().find(|statement| statement.is_provenance());
        return printed(
            &found.ok_or_else(|| nothing_said(&args.image, "provenance"))?.read(content).map_err(fail)?,
        );
    }
    if args.sbom {
        let found = statements.iter().find(|statement| statement.is_sbom());
        return printed(
            &found.ok_or_else(|| nothing_said(&args.image, "sbom"))?.read(content).map_err(fail)?,
        );
    }
    let Some(manifest) = &inventory.root().manifest else {
        return Err(Failure::new(Kind::Internal, "an index was chosen for a manifest"));
    };
    let mut config = Vec::new();
    content.fetch(&manifest.config, &mut config, &|_| ()).map_err(fail)?;
    if args.config {
        return printed(&config);
    }
    let shown = Shown {
        name: origin
            .stored_as
            .or_else(|| origin.name.map(|name| name.to_string()))
            .unwrap_or_else(|| args.image.to_string()),
        root: origin.root,
        index,
        inventory: &inventory,
        manifest,
        config_bytes: &config,
        statements: &statements,
    };
    let text = match args.format {
        Format::Json => format!("{:#}\n", shown.json()?),
        Format::Text => shown.text()?,
    };
    printed(text.as_bytes())
}

fn nothing_said(image: &Place, what: &str) -> Failure {
    Failure::new(Kind::User, format!("nobody has put a statement with its {what} beside `{image}`"))
        .with_hint(format!("build it with --{what}; `kiln inspect` lists the attestations of an image"))
}

fn printed(bytes: &[u8]) -> Result<u8, Failure> {
    print::data(bytes).map(|()| 0).map_err(|e| Failure::from_error(Kind::User, &e))
}

/// The platform asked for, or this machine's; where the image has only others, the first of them.
fn chosen(wanted: Option<&Platform>, index: Option<&Index>) -> Platform {
    let host = Platform::host();
    if let Some(wanted) = wanted {
        return wanted.clone();
    }
    match index {
        Some(index) if index.choose(&host).is_none() => {
            platforms(index).next().and_then(|entry| entry.platform.clone()).unwrap_or(host)
        }
        _ => host,
    }
}

/// Entries of images, without attestations.
fn platforms(index: &Index) -> impl Iterator<Item = &Descriptor> {
    let known =
        |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.os != "unknown");
    index.manifests.iter().filter(known)
}

struct Shown<'a> {
    name: String,
    root: Descriptor,
    index: Option<Index>,
    inventory: &'a Inventory,
    manifest: &'a Manifest,
    config_bytes: &'a [u8],
    statements: &'a [StoredStatement],
}

impl Shown<'_> {
    fn config(&self) -> Result<ImageConfig, Failure> {
        ImageConfig::from_bytes(self.config_bytes).map_err(|e| Failure {
            causes: vec![e.to_string()],
            ..Failure::new(Kind::User, format!("the config of `{}` is no image config", self.name))
        })
    }

    /// What made each layer, as far as the history tells.
    fn commands(&self, config: &ImageConfig) -> Vec<Option<String>> {
        let filled = config.history.iter().filter(|entry| !entry.empty_layer);
        let commands: Vec<String> = filled.map(|entry| entry.created_by.clone()).collect();
        let agrees = commands.len() == self.manifest.layers.len();
        (0..self.manifest.layers.len())
            .map(|number| commands.get(number).filter(|_| agrees).cloned())
            .collect()
    }

    fn json(&self) -> Result<serde_json::Value, Failure> {
        let config = self.config()?;
        let commands = self.commands(&config);
        let layers: Vec<_> = self
            .manifest
            .layers
            .iter()
            .zip(&commands)
            .enumerate()
            .map(|(number, (layer, command))| {
                json!({
                    "digest": layer.digest,
                    "diffId": config.rootfs.diff_ids.get(number),
                    "size": layer.size,
                    "mediaType": layer.media_type,
                    "createdBy": command,
                    "annotations": layer.annotations,
                })
            })
            .collect();
        let others: Option<Vec<_>> = self.index.as_ref().map(|index| {
            let entry = |entry: &Descriptor| {
                json!({
                    "platform": entry.platform.as_ref().map(ToString::to_string),
                    "digest": entry.digest,
                    "size": entry.size,
                })
            };
            platforms(index).map(entry).collect()
        });
        let whole: serde_json::Value = serde_json::from_slice(self.config_bytes).unwrap_or_default();
        let document = &self.inventory.root().descriptor;
        Ok(json!({
            "name": self.name,
            "digest": self.root.digest,
            "mediaType": self.root.media_type,
            "manifest": { "digest": document.digest, "mediaType": document.media_type },
            "platform": platform_of(&config).to_string(),
            "platforms": others,
            "id": self.manifest.config.digest,
            "size": self.inventory.size_bytes(),
            "created": config.created,
            "author": config.author,
            "config": whole.get("config"),
            "layers": layers,
            "history": whole.get("history"),
            "attestations": self.statements.iter().map(|statement| json!({
                "predicateType": statement.predicate_type,
                "digest": statement.descriptor.digest,
                "size": statement.descriptor.size,
            })).collect::<Vec<_>>(),
            "annotations": self.manifest.annotations,
            "indexAnnotations": self.index.as_ref().map(|index| &index.annotations),
        }))
    }

    fn text(&self) -> Result<String, Failure> {
        let config = self.config()?;
        let mut lines = Vec::new();
        let mut line = |key: &str, value: String| {
            if !value.is_empty() {
                lines.push(format!("{key:<12} {}", text::visible(&value)));
            }
        };
        line("name", super::store::familiar(&self.name));
        line("digest", self.root.digest.to_string());
        if let Some(index) = &self.index {
            let all: Vec<String> = platforms(index)
                .filter_map(|entry| entry.platform.as_ref())
                .map(ToString::to_string)
                .collect();
            line("platforms", all.join(", "));
            line("manifest", self.inventory.root().descriptor.digest.to_string());
        }
        line("platform", platform_of(&config).to_string());
        line("id", self.manifest.config.digest.to_string());
        line("type", self.inventory.root().descriptor.media_type.clone());
        line("created", config.created.clone().unwrap_or_default());
        line("author", config.author.clone());
        line("size", size::human(self.inventory.size_bytes()));
        let own = &config.config;
        let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| json!(words).to_string());
        line("entrypoint", words(&own.entrypoint).unwrap_or_default());
        line("cmd", words(&own.cmd).unwrap_or_default());
        line("user", own.user.clone());
        line("workdir", own.working_dir.clone());
        line("ports", own.exposed_ports.keys().cloned().collect::<Vec<_>>().join(", "));
        line("volumes", own.volumes.keys().cloned().collect::<Vec<_>>().join(", "));
        line("stop signal", own.stop_signal.clone());
        if let Some(check) = &own.healthcheck {
            line("health", json!(check.test).to_string());
        }
        own.env.iter().for_each(|pair| line("env", pair.clone()));
        own.labels.iter().for_each(|(key, value)| line("label", format!("{key}={value}")));
        let annotations = self.manifest.annotations.iter();
        annotations.for_each(|(key, value)| line("annotation", format!("{key}={value}")));
        for StoredStatement { predicate_type, descriptor } in self.statements {
            line("attestation", format!("{predicate_type} ({})", size::human(descriptor.size)));
        }
        let mut text = lines.join("\n");
        text.push('\n');
        if !self.manifest.layers.is_empty() {
            text.push('\n');
            text.push_str(self.layers(&config).trim_end());
            text.push('\n');
        }
        Ok(text)
    }

    fn layers(&self, config: &ImageConfig) -> String {
        /// The column that gives way in a narrow terminal.
        const COMMAND: usize = 2;
        let mut table =
            Table::new(&[("LAYER", Align::Left), ("SIZE", Align::Right), ("MADE BY", Align::Left)]);
        for (layer, command) in self.manifest.layers.iter().zip(self.commands(config)) {
            let command = command.unwrap_or_default();
            let command = text::fit(&command, MAX_COMMAND_COLUMNS).into_owned();
            table.row([format!("sha256:{}", layer.digest.short()), size::human(layer.size), command]);
        }
        match terminal::stdout_columns() {
            Some(columns) => table.render_within(columns, COMMAND),
            None => table.render(),
        }
    }
}

fn platform_of(config: &ImageConfig) -> Platform {
    Platform::new(&config.os, &config.architecture, &config.variant)
}
