//! The names of the parts of a queue file, on destinations that cannot store it in one piece: `NAME~p1of3`,
//! `NAME~p2of3`, `NAME~p3of3`, which `cat` joins. No host or dataset has a `~` in its name, and versions that know no
//! parts ignore such files.

use super::queue_name::is_number;

/// The maximum number of parts of a file. With three digits each, and a suffix `.N` of NNCP, a name of
/// [200 bytes](super::queue_name::QueueName::new) and its directory have the 255 bytes that NNCP allows.
pub const MOST: u64 = 999;

/// The name of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The name of the whole file.
    pub whole: &'a str,
    /// The number of the part, from 1.
    pub number: u64,
    /// The number of parts that the file has: at least 2.
    pub of: u64,
}

impl<'a> Part<'a> {
    /// Parses the name of a part. NNCP may have put `.N` behind it. `None`: it is the name of a whole file.
    pub fn parse(name: &'a str) -> Option<Part<'a>> {
        let (whole, rest) = name.rsplit_once("~p")?;
        let mut suffixes = rest.split('.');
        let (number, of) = suffixes.next()?.split_once("of")?;
        let [number, of] = [number, of].map(|text| text.parse().ok().filter(|n: &u64| n.to_string() == text));
        let part = Part { whole, number: number?, of: of? };
        let possible = (1..=part.of).contains(&part.number) && (2..=MOST).contains(&part.of);
        (possible && !whole.is_empty() && suffixes.all(is_number)).then_some(part)
    }

    /// Returns the name of the part, without a suffix of NNCP.
    pub fn name(&self) -> String {
        format!("{}~p{}of{}", self.whole, self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_part_reads_back_and_no_other_is_one() {
        for (name, whole, number, of) in [
            ("a~p1of2", "a", 1, 2),
            ("a.0~p2of2", "a.0", 2, 2),
            ("a~p1of3~p999of999", "a~p1of3", 999, 999),
            ("@~00~p10of11", "@~00", 10, 11),
        ] {
            let part = Part { whole, number, of };
            assert_eq!((Part::parse(name), part.name()), (Some(part), name.to_owned()));
            for suffix in [".0", ".12.3"] {
                assert_eq!(Part::parse(&format!("{name}{suffix}")), Some(part));
            }
        }
        for other in [
            "a",
            "a~p",
            "a~p1",
            "a~p1of",
            "a~p1of1",
            "a~p0of2",
            "a~p3of2",
            "a~p01of2",
            "a~p1of02",
            "a~p1of1000",
            "a~p+1of2",
            "~p1of2",
            "a~p1of2.",
            "a~p1of2.x",
            "a~p1of2~1",
            "a~P1of2",
            "a~p1of2 ",
            "a~p1 of2",
        ] {
            assert_eq!(Part::parse(other), None, "{other}");
        }
    }
}
