//! Delivers a file in parts, where `max-file` is less than its size. Each part is copied, synced and named before the
//! next one, so that what is there after a crash is whole, and the next delivery continues behind it.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::AtFlags;

use super::compare::{Piece, There, there};
use super::drive::Drive;
use crate::cli::exit::Exit;
use crate::cli::report;
use crate::durable::dest::Delivered;
use crate::durable::publish::at_path;
use crate::names::part::{MOST, Part};

/// The unit of the size of a part in bytes, as far as `max-file` allows: sticks write whole blocks.
const BLOCK: u64 = 1 << 20;

impl Drive<'_> {
    /// Delivers `whole` as parts of the name `name`. Parts that are there already are not copied. Returns `None` if
    /// another file has the name of one of the parts.
    pub fn in_parts(&self, dir: &File, shown: &Path, whole: Piece<'_>, name: &str) -> Result<Option<Delivered>> {
        let size = self.size_of_parts(dir, whole.length, name)?;
        let of = whole.length.div_ceil(size);
        let mut missing = Vec::new();
        for number in 1..=of {
            let start = (number - 1) * size;
            let piece = Piece { start, length: size.min(whole.length - start), ..whole };
            let form = self.form(&Part { whole: name, number, of }.name())?;
            match there(dir, &form, piece, self.beat).with_context(|| shown.join(&form).display().to_string())? {
                There::Same => {}
                There::Other => return Ok(None),
                There::Nothing => missing.push((form, piece)),
            }
        }
        if missing.is_empty() {
            return Ok(Some(Delivered::Already));
        }
        // All parts together: some of them would be useless.
        self.has_room(missing.iter().map(|(_, piece)| piece.length).sum())?;
        for (form, piece) in missing {
            let new = self.piece(dir, shown, piece, &form)?;
            new.sync()?;
            if !self.name(dir, new, &form, piece)? {
                return Err(
                    Exit::TryAgain.error(format!("{}: another process delivers it", shown.join(form).display()))
                );
            }
            rustix::fs::fsync(dir).map_err(at_path(shown))?;
        }
        Ok(Some(Delivered::New))
    }

    /// Returns the size of the parts of a file with so many bytes. If an earlier delivery has begun with another size,
    /// it is that one.
    fn size_of_parts(&self, dir: &File, bytes: u64, name: &str) -> Result<u64> {
        if Part::parse(name).is_some() {
            let size = report::bytes(bytes);
            return Err(Exit::CantCreate.error(format!(
                "it is a part of {size} already, which is more than max-file: raise that, or join the parts with cat"
            )));
        }
        let largest = self.abilities()?.largest;
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let Ok(form) = entry.file_name().to_str() else { continue };
            let Some(of) = self.first_of(form, name)? else { continue };
            let size = rustix::fs::statat(dir, form, AtFlags::SYMLINK_NOFOLLOW)?.st_size;
            let size = u64::try_from(size).unwrap_or(0);
            if size > 0 && size <= largest && bytes.div_ceil(size) == of {
                return Ok(size);
            }
        }
        let size = new_size(self.how.max_file.unwrap_or(largest).min(largest));
        match bytes.div_ceil(size) {
            1..=MOST => Ok(size),
            parts => {
                let text = format!("{name} would have {parts} parts, and {MOST} are possible: raise max-file");
                Err(io::Error::new(io::ErrorKind::FileTooLarge, text).into())
            }
        }
    }

    /// Returns the number of parts, if `form` is the stored name of part 1 of `name`.
    fn first_of(&self, form: &str, name: &str) -> io::Result<Option<u64>> {
        let Some(of) = Part::parse(form).filter(|part| part.number == 1).map(|part| part.of) else { return Ok(None) };
        Ok((self.form(&Part { whole: name, number: 1, of }.name())? == form).then_some(of))
    }
}

/// Returns the size of parts that have at most `most` bytes.
fn new_size(most: u64) -> u64 {
    if most < BLOCK { most.max(1) } else { most - most % BLOCK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_whole_blocks_if_they_are_larger_than_one() {
        let fat = (4 << 30) - 1;
        for (most, size) in [(fat, (4 << 30) - BLOCK), (4 << 30, 4 << 30), (BLOCK, BLOCK), (7, 7), (0, 1)] {
            assert_eq!(new_size(most), size);
        }
    }
}
