//! Somebody at the keyboard and the mouse.

use anyhow::{Context, Result};
use hyperv_bindings::ic::KeyboardEventFlags;
use paravirt_testhost::InputHost;

const ESCAPE: u16 = 1;
/// The middle of a screen, and the left button.
const MIDDLE: u16 = 16384;
const LEFT: u8 = 1;
/// The keys by the rows of an American keyboard: scan code of the first, and what they write. Set 1.
const ROWS: [(u16, &str); 4] =
    [(2, "1234567890-="), (16, "qwertyuiop[]"), (30, "asdfghjkl;'`"), (44, "zxcvbnm,./")];
const SPACE: u16 = 57;

/// A keyboard, a mouse, and what is to be typed.
pub struct Typist {
    pub keyboard: InputHost,
    pub mouse: InputHost,
    codes: Vec<u16>,
}

fn code(letter: char) -> Option<u16> {
    if letter == ' ' {
        return Some(SPACE);
    }
    ROWS.iter().find_map(|(first, row)| Some(first + u16::try_from(row.find(letter)?).ok()?))
}

impl Typist {
    /// One who is to type `text`.
    pub fn new(text: &str) -> Result<Self> {
        let codes = text.chars().map(|letter| {
            code(letter).with_context(|| format!("{letter:?} cannot be typed: small letters and digits can"))
        });
        let codes = codes.chain([Ok(ESCAPE)]).collect::<Result<_>>()?;
        Ok(Self { keyboard: InputHost::keyboard(), mouse: InputHost::mouse(), codes })
    }

    /// Moves, clicks and types.
    pub fn work(&self) {
        for buttons in [0, LEFT, 0] {
            self.mouse.report(buttons, MIDDLE, MIDDLE, 0);
        }
        for code in &self.codes {
            self.keyboard.keystroke(*code, 0);
            self.keyboard.keystroke(*code, KeyboardEventFlags::BREAK.bits());
        }
    }

    /// What the guest did wrong.
    pub fn violations(&self) -> Vec<String> {
        [self.keyboard.violations(), self.mouse.violations()].concat()
    }
}
