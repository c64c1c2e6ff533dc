//! What a guest did wrong.

/// How many of its deeds are kept: a guest may go on for ever.
const MOST: usize = 100;

/// What a guest did wrong, from the first on.
#[derive(Default)]
pub(crate) struct Violations(Vec<String>);

impl Violations {
    /// Writes one down. The last that there is room for says only that there were more.
    pub fn note(&mut self, text: impl Into<String>) {
        match self.0.len() + 1 {
            MOST => self.0.push("more than is written down".into()),
            number if number < MOST => self.0.push(text.into()),
            _ => {}
        }
    }

    /// All that were written down.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Violations};

    #[test]
    fn a_guest_that_goes_on_for_ever_fills_no_memory() {
        let mut violations = Violations::default();
        for number in 0..10 * MOST {
            violations.note(format!("number {number}"));
        }
        let list = violations.list();
        assert_eq!((list.len(), &*list[MOST - 2]), (MOST, "number 98"));
        assert_eq!(list[MOST - 1], "more than is written down");
    }
}
