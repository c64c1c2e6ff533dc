//! A script of keyboard and mouse input.

use anyhow::{Context, Result};
use hyperv_bindings::ic::KeyboardEventFlags;
use paravirt_testhost::InputHost;

const ESCAPE: u16 = 1;
/// The middle of a screen, and the left button.
const MIDDLE: u16 = 16384;
const LEFT: u8 = 1;
/// The rows of a US keyboard: the scan code (set 1) of the first key, and the characters.
const ROWS: [(u16, &str); 4] =
    [(2, "1234567890-="), (16, "qwertyuiop[]"), (30, "asdfghjkl;'`"), (44, "zxcvbnm,./")];
const SPACE: u16 = 57;

/// A keyboard, a mouse, and the keys to type.
pub struct InputScript {
    pub keyboard: InputHost,
    pub mouse: InputHost,
    codes: Vec<u16>,
}

/// Returns the scan code of a character.
fn code(letter: char) -> Option<u16> {
    if letter == ' ' {
        return Some(SPACE);
    }
    ROWS.iter().find_map(|(first, row)| Some(first + u16::try_from(row.find(letter)?).ok()?))
}

impl InputScript {
    /// Creates a script that types `text` and Escape.
    ///
    /// # Errors
    ///
    /// `text` has a character that needs a modifier key, or is not on the keyboard.
    pub fn new(text: &str) -> Result<Self> {
        let codes = text.chars().map(|letter| {
            code(letter).with_context(|| {
                format!(
                    "{letter:?} cannot be typed: use lower-case letters, digits and unshifted punctuation"
                )
            })
        });
        let codes = codes.chain([Ok(ESCAPE)]).collect::<Result<_>>()?;
        Ok(Self { keyboard: InputHost::keyboard(), mouse: InputHost::mouse(), codes })
    }

    /// Moves the mouse to the middle of the screen, clicks, and types.
    pub fn play(&self) {
        for buttons in [0, LEFT, 0] {
            self.mouse.report(buttons, MIDDLE, MIDDLE, 0);
        }
        for code in &self.codes {
            self.keyboard.keystroke(*code, 0);
            self.keyboard.keystroke(*code, KeyboardEventFlags::BREAK.bits());
        }
    }

    /// Returns violations of the protocol by the guest.
    pub fn violations(&self) -> Vec<String> {
        [self.keyboard.violations(), self.mouse.violations()].concat()
    }
}
