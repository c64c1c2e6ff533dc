//! Report descriptors and reports of HID devices, as far as a pointer needs them, parsed by total functions. Device Class
//! Definition for HID 1.11 §6.2.2, §8

use paravirt_device::{Axis, InputEvent, Key};

/// Buttons of a pointer: left, right, middle and two more.
const BUTTONS: usize = 5;
/// Events of one report, at most: buttons, four axes, and the end of the report.
pub(crate) const MAX_EVENTS: usize = BUTTONS + 5;
/// Usages that are kept for one main item.
const USAGES: usize = 16;
/// Depth of the stack of global states.
const STACK: usize = 4;
/// Bits of a report, at most.
const MAX_BITS: u32 = 1 << 16;

/// Tags and types of items. §6.2.2.5, §6.2.2.7, §6.2.2.8
mod tag {
    pub const INPUT: u8 = 0x80;
    pub const USAGE_PAGE: u8 = 0x04;
    pub const LOGICAL_MINIMUM: u8 = 0x14;
    pub const LOGICAL_MAXIMUM: u8 = 0x24;
    pub const REPORT_SIZE: u8 = 0x74;
    pub const REPORT_ID: u8 = 0x84;
    pub const REPORT_COUNT: u8 = 0x94;
    pub const PUSH: u8 = 0xa4;
    pub const POP: u8 = 0xb4;
    pub const USAGE: u8 = 0x08;
    pub const USAGE_MINIMUM: u8 = 0x18;
    pub const USAGE_MAXIMUM: u8 = 0x28;
}

/// Usage pages. HID Usage Tables 1.12 §3
mod page {
    pub const DESKTOP: u16 = 1;
    pub const BUTTON: u16 = 9;
    pub const CONSUMER: u16 = 12;
}

/// A value in a report.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Field {
    /// The id of its report; 0 where reports have no ids.
    report: u8,
    /// Its offset in the report, in bits.
    at: u32,
    /// Bits of the value: 1 to 32.
    width: u32,
    least: i32,
    most: i32,
    is_relative: bool,
}

impl Field {
    /// Reads the value; `None` where the report is too short.
    fn value(&self, report: &[u8]) -> Option<i32> {
        let mut bytes = [0u8; 8];
        let first = usize::try_from(self.at >> 3).ok()?;
        let end = usize::try_from(self.at.wrapping_add(self.width).wrapping_add(7) >> 3).ok()?;
        bytes.iter_mut().zip(report.get(first..end)?).for_each(|(to, from)| *to = *from);
        let raw = (u64::from_le_bytes(bytes) >> (self.at & 7)) as u32;
        let unused = 32u32.saturating_sub(self.width);
        let raw = raw.wrapping_shl(unused);
        Some(if self.least < 0 {
            (raw as i32).wrapping_shr(unused)
        } else {
            i32::try_from(raw.wrapping_shr(unused)).unwrap_or(i32::MAX)
        })
    }

    /// Scales an absolute value to the range of [`InputEvent`].
    fn place(&self, value: i32) -> u16 {
        let span = i64::from(self.most).saturating_sub(self.least.into());
        InputEvent::place(value, self.least, span)
    }
}

/// Global items: they stay in force until they are set again. §6.2.2.7
#[derive(Copy, Clone, Default)]
struct Global {
    page: u16,
    least: i32,
    most: i32,
    width: u32,
    count: u32,
    report: u8,
}

/// Local items: they apply to the next main item. §6.2.2.8
#[derive(Copy, Clone, Default)]
struct Local {
    usages: [u32; USAGES],
    count: usize,
    first: Option<u32>,
}

impl Local {
    fn push(&mut self, usage: u32) {
        if let Some(free) = self.usages.get_mut(self.count) {
            *free = usage;
            self.count = self.count.saturating_add(1);
        }
    }

    /// The usage of value `at` of the main item.
    fn usage(&self, at: u32) -> Option<u32> {
        if let Some(first) = self.first {
            return first.checked_add(at);
        }
        let last = self.count.checked_sub(1)?;
        self.usages.get(usize::try_from(at).unwrap_or(last).min(last)).copied()
    }
}

/// An item of a descriptor. §6.2.2.2
struct Item {
    /// Tag and type: the prefix without its length.
    code: u8,
    data: u32,
    len: usize,
}

impl Item {
    fn signed(&self) -> i32 {
        match self.len {
            1 => (self.data as u8 as i8).into(),
            2 => (self.data as u16 as i16).into(),
            _ => self.data as i32,
        }
    }
}

/// Takes the next item of `rest`.
fn item(rest: &mut &[u8]) -> Option<Item> {
    loop {
        let (prefix, behind) = rest.split_first()?;
        // A long item; none is defined.
        if *prefix == 0xfe {
            let (len, behind) = behind.split_first()?;
            *rest = behind.get(usize::from(*len).saturating_add(1)..)?;
            continue;
        }
        let len = match prefix & 3 {
            3 => 4,
            len => usize::from(len),
        };
        let (data, behind) = behind.split_at_checked(len)?;
        *rest = behind;
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        return Some(Item { code: prefix & 0xfc, data: u32::from_le_bytes(bytes), len });
    }
}

/// The layout of a pointer's reports.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Layout {
    is_numbered: bool,
    buttons: [Option<Field>; BUTTONS],
    x: Option<Field>,
    y: Option<Field>,
    wheel: Option<Field>,
    pan: Option<Field>,
}

impl Layout {
    /// Parses a report descriptor up to its end, or to the first item that cannot be read.
    pub fn parse(descriptor: &[u8]) -> Self {
        let mut layout = Self::default();
        let mut global = Global::default();
        let mut stack = [Global::default(); STACK];
        let (mut depth, mut local, mut at) = (0usize, Local::default(), 0u32);
        let mut rest = descriptor;
        while let Some(item) = item(&mut rest) {
            match item.code {
                tag::INPUT => {
                    let bits = global.width.saturating_mul(global.count);
                    let end = at.saturating_add(bits);
                    if end > MAX_BITS {
                        break;
                    }
                    // Bit 0: constant; bit 1: a value for each; bit 2: relative.
                    if item.data & 3 == 2 && (1..=32).contains(&global.width) {
                        layout.add(&global, &local, at, item.data & 4 != 0);
                    }
                    at = end;
                }
                tag::USAGE_PAGE => global.page = item.data as u16,
                tag::LOGICAL_MINIMUM => global.least = item.signed(),
                tag::LOGICAL_MAXIMUM => global.most = item.signed(),
                tag::REPORT_SIZE => global.width = item.data,
                tag::REPORT_COUNT => global.count = item.data,
                tag::REPORT_ID => {
                    // The id is the first byte of each report.
                    layout.is_numbered = true;
                    (global.report, at) = (item.data as u8, 8);
                }
                tag::PUSH => {
                    let Some(free) = stack.get_mut(depth) else { break };
                    *free = global;
                    depth = depth.saturating_add(1);
                }
                tag::POP => {
                    depth = depth.saturating_sub(1);
                    global = stack.get(depth).copied().unwrap_or_default();
                }
                tag::USAGE | tag::USAGE_MINIMUM | tag::USAGE_MAXIMUM => {
                    let page = if item.len == 4 { 0 } else { u32::from(global.page) << 16 };
                    match item.code {
                        tag::USAGE => local.push(page | item.data),
                        tag::USAGE_MINIMUM => local.first = Some(page | item.data),
                        _ => {}
                    }
                }
                _ => {}
            }
            // A main item consumes the local items.
            if item.code & 0x0c == 0 {
                local = Local::default();
            }
        }
        layout
    }

    fn add(&mut self, global: &Global, local: &Local, at: u32, is_relative: bool) {
        let Global { width, least, most, report, .. } = *global;
        // More values than there are usages here add nothing.
        for index in 0..global.count.min(32) {
            let Some(usage) = local.usage(index) else { break };
            let at = at.saturating_add(width.saturating_mul(index));
            let field = Field { report, at, width, least, most, is_relative };
            let place = match ((usage >> 16) as u16, usage as u16) {
                (page::DESKTOP, 0x30) => &mut self.x,
                (page::DESKTOP, 0x31) => &mut self.y,
                (page::DESKTOP, 0x38) => &mut self.wheel,
                (page::CONSUMER, 0x238) => &mut self.pan,
                (page::BUTTON, number @ 1..=5) => {
                    match self.buttons.get_mut(usize::from(number).wrapping_sub(1)) {
                        Some(button) => button,
                        None => continue,
                    }
                }
                _ => continue,
            };
            place.get_or_insert(field);
        }
    }

    /// Whether it has buttons, relative axes and absolute axes.
    pub fn kinds(&self) -> (bool, bool, bool) {
        let is = |relative| self.x.is_some_and(|x| x.is_relative == relative);
        (self.buttons.iter().any(Option::is_some), is(true), is(false))
    }
}

/// The last state of a pointer, with which a report is compared.
#[derive(Copy, Clone, Debug, Default)]
pub struct Pointer {
    buttons: [bool; BUTTONS],
    x: Option<u16>,
    y: Option<u16>,
}

impl Pointer {
    /// Calls `event` for each change in `report`, then for the end of the report.
    pub fn report(&mut self, layout: &Layout, report: &[u8], event: &mut dyn FnMut(InputEvent)) {
        let number = if layout.is_numbered { report.first().copied() } else { Some(0) };
        let read = |field: &Option<Field>| {
            let field = field.filter(|field| Some(field.report) == number)?;
            Some((field, field.value(report)?))
        };
        let mut is_new = false;
        let mut say = |new| {
            is_new = true;
            event(new);
        };
        for (axis, field, last) in [(Axis::X, &layout.x, &mut self.x), (Axis::Y, &layout.y, &mut self.y)] {
            match read(field) {
                Some((field, by)) if field.is_relative && by != 0 => say(InputEvent::Relative { axis, by }),
                Some((field, value)) if !field.is_relative => {
                    let at = field.place(value);
                    if last.replace(at) != Some(at) {
                        say(InputEvent::Absolute { axis, at });
                    }
                }
                _ => {}
            }
        }
        for (axis, field) in [(Axis::Wheel, &layout.wheel), (Axis::HorizontalWheel, &layout.pan)] {
            if let Some((_, by)) = read(field).filter(|(_, by)| *by != 0) {
                say(InputEvent::Relative { axis, by });
            }
        }
        for ((number, field), was) in (0u16..).zip(&layout.buttons).zip(&mut self.buttons) {
            let Some((_, value)) = read(field) else { continue };
            let is_pressed = value != 0;
            if core::mem::replace(was, is_pressed) != is_pressed {
                let Key(first) = Key::BUTTON_LEFT;
                say(InputEvent::Key { key: Key(first.wrapping_add(number)), is_pressed });
            }
        }
        if is_new {
            event(InputEvent::Sync);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    /// Five buttons and three bits of padding, X and Y of 16 bits from 0 to 32767, a wheel of 16 bits.
    pub const TABLET: &[u8] = &[
        0x05, 1, 0x09, 2, 0xa1, 1, 0x09, 1, 0xa1, 0, 0x05, 9, 0x19, 1, 0x29, 5, 0x15, 0, 0x25, 1, 0x95, 5,
        0x75, 1, 0x81, 2, 0x95, 1, 0x75, 3, 0x81, 3, 0x05, 1, 0x09, 0x30, 0x09, 0x31, 0x15, 0, 0x26, 0xff,
        0x7f, 0x75, 16, 0x95, 2, 0x81, 2, 0x09, 0x38, 0x16, 0x01, 0x80, 0x26, 0xff, 0x7f, 0x95, 1, 0x81, 6,
        0xc0, 0xc0,
    ];
    /// Numbered 3; X and Y of 12 bits, relative.
    const MOUSE: &[u8] = &[
        0x85, 3, 0x05, 9, 0x19, 1, 0x29, 3, 0x15, 0, 0x25, 1, 0x95, 8, 0x75, 1, 0x81, 2, 0x05, 1, 0x09, 0x30,
        0x09, 0x31, 0x16, 0x01, 0xf8, 0x26, 0xff, 0x07, 0x75, 12, 0x95, 2, 0x81, 6,
    ];

    fn events(pointer: &mut Pointer, layout: &Layout, report: &[u8]) -> Vec<InputEvent> {
        let mut all = vec![];
        pointer.report(layout, report, &mut |event| all.push(event));
        all
    }

    #[test]
    fn a_tablet_says_what_is_new() {
        let (layout, mut pointer) = (Layout::parse(TABLET), Pointer::default());
        assert_eq!(layout.kinds(), (true, false, true));
        let x = InputEvent::Absolute { axis: Axis::X, at: 0x1234 };
        let y = InputEvent::Absolute { axis: Axis::Y, at: 5 };
        let left = |is_pressed| InputEvent::Key { key: Key::BUTTON_LEFT, is_pressed };
        let wheel = InputEvent::Relative { axis: Axis::Wheel, by: -1 };
        let mut say = |report: &[u8]| events(&mut pointer, &layout, report);
        assert_eq!(say(&[1, 0x34, 0x12, 5, 0, 0, 0]), [x, y, left(true), InputEvent::Sync]);
        assert_eq!(say(&[1, 0x34, 0x12, 5, 0, 0, 0]), []);
        assert_eq!(say(&[0, 0x34, 0x12, 5, 0, 0xff, 0xff]), [wheel, left(false), InputEvent::Sync]);
        // One that is cut short says what it holds.
        assert_eq!(say(&[2]).len(), 2);
        assert_eq!(say(&[]), []);
    }

    #[test]
    fn a_mouse_with_numbered_reports_and_odd_widths() {
        let (layout, mut pointer) = (Layout::parse(MOUSE), Pointer::default());
        assert_eq!(layout.kinds(), (true, true, false));
        let moved = |axis, by| InputEvent::Relative { axis, by };
        let all = events(&mut pointer, &layout, &[3, 0, 0xff, 0x2f, 0x00]);
        assert_eq!(all, [moved(Axis::X, -1), moved(Axis::Y, 2), InputEvent::Sync]);
        assert_eq!(events(&mut pointer, &layout, &[4, 1, 1, 1, 1]), []);
    }

    #[test]
    fn a_report_has_no_more_events_than_there_is_room_for() {
        let (layout, mut pointer) = (Layout::parse(TABLET), Pointer::default());
        assert!(events(&mut pointer, &layout, &[0x1f, 1, 1, 1, 1, 1, 1]).len() <= MAX_EVENTS);
    }
}
