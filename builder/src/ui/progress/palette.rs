//! Colours of the live display, and `BUILDKIT_COLORS` that changes them.
//!
//! Invariants: what the variable says wrongly is passed over, as BuildKit does; a display is no reason to stop a build.

use super::screen::Colour;

/// Which colour says what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    /// Steps that went well.
    pub run: Colour,
    /// Steps that failed.
    pub error: Colour,
    /// Warnings.
    pub warning: Colour,
    /// Steps that were stopped.
    pub cancel: Colour,
}

impl Default for Palette {
    fn default() -> Self {
        Self { run: Colour::BLUE, error: Colour::RED, warning: Colour::YELLOW, cancel: Colour::YELLOW }
    }
}

impl Palette {
    /// Reads `run=green:error=255,0,0:cancel=yellow:warning=magenta`; what is not named keeps its colour.
    pub fn parse(text: &str) -> Self {
        let mut palette = Self::default();
        for (name, colour) in text.split(':').filter_map(|part| part.split_once('=')) {
            let Some(colour) = colour_of(colour.trim()) else { continue };
            match name.trim() {
                "run" => palette.run = colour,
                "error" => palette.error = colour,
                "warning" => palette.warning = colour,
                "cancel" => palette.cancel = colour,
                _ => {}
            }
        }
        palette
    }
}

/// One of the eight colours that every terminal has, or three numbers from 0 to 255.
fn colour_of(text: &str) -> Option<Colour> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    if let Some(number) = NAMES.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        return u8::try_from(number).ok().map(|number| Colour::Basic(30 + number));
    }
    let mut parts = text.split(',').map(|part| part.trim().parse::<u8>().ok());
    let colour = Colour::Exact(parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_read_and_mistakes_passed_over() {
        let palette = Palette::parse("run=green:error=255, 0,1:cancel=purple:warning=1,2,300:x=red:cancel");
        assert_eq!(
            palette,
            Palette { run: Colour::Basic(32), error: Colour::Exact(255, 0, 1), ..Palette::default() }
        );
        assert_eq!(Palette::parse(""), Palette::default());
        assert_eq!(Palette::parse("cancel=WHITE:run=1,2,3,4").cancel, Colour::Basic(37));
    }
}
