//! (skeleton: signatures are the contract)
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
/// A new file under a hidden temporary name (`.zsnap-<16 hex>`, O_EXCL, 0600, flocked), unlinked on drop unless renamed away.
pub struct NewFile {
    _p: (),
}
impl NewFile {
    /// Makes it in `dir`.
    pub fn create_in(_dir: &Path) -> io::Result<NewFile> {
        unimplemented!()
    }
    /// The open file, for reading and writing.
    pub fn file(&self) -> &File {
        unimplemented!()
    }
    /// fsync of the data.
    pub fn sync(&self) -> io::Result<()> {
        unimplemented!()
    }
    /// Hard-links it to `dir/name`, never replacing (`AlreadyExists`), and fsyncs the directory. The temporary name stays until drop.
    pub fn link_as(&self, _name: &OsStr) -> io::Result<()> {
        unimplemented!()
    }
    /// As `link_as`, into another directory of the same file system.
    pub fn link_into(&self, _dir: &Path, _name: &OsStr) -> io::Result<()> {
        unimplemented!()
    }
    /// Renames it over `dir/name` and fsyncs the directory.
    pub fn replace(self, _name: &OsStr) -> io::Result<()> {
        unimplemented!()
    }
}
/// tmp, write, fsync, rename over `path`, fsync of the directory: a reader sees the old or the new bytes.
pub fn write_durably(_path: &Path, _bytes: &[u8]) -> io::Result<()> {
    unimplemented!()
}
/// Removes temporaries of ours in `dir` whose writer is gone (flock free). Missing `dir`: nothing to do.
pub fn sweep(_dir: &Path) -> io::Result<()> {
    unimplemented!()
}
/// fsync of a directory.
pub fn sync_dir(_dir: &Path) -> io::Result<()> {
    unimplemented!()
}
/// mkdir -p with 0700 for what is new, each parent fsynced.
pub fn make_dirs(_dir: &Path) -> io::Result<()> {
    unimplemented!()
}
