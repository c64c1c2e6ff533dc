//! A bounded record of protocol violations by the guest.

/// The number of violations that are recorded; a guest can commit any number.
const MAX_RECORDED: usize = 100;

/// Protocol violations by the guest, oldest first, at most [`MAX_RECORDED`].
#[derive(Default)]
pub(crate) struct Violations(Vec<String>);

impl Violations {
    /// Records a violation. The last entry that fits only reports that more followed.
    pub fn note(&mut self, text: impl Into<String>) {
        match self.0.len() + 1 {
            MAX_RECORDED => self.0.push("further violations are not recorded".into()),
            number if number < MAX_RECORDED => self.0.push(text.into()),
            _ => {}
        }
    }

    /// The recorded violations.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_RECORDED, Violations};

    #[test]
    fn the_record_is_bounded() {
        let mut violations = Violations::default();
        for number in 0..10 * MAX_RECORDED {
            violations.note(format!("number {number}"));
        }
        let list = violations.list();
        assert_eq!((list.len(), &*list[MAX_RECORDED - 2]), (MAX_RECORDED, "number 98"));
        assert_eq!(list[MAX_RECORDED - 1], "further violations are not recorded");
    }
}
