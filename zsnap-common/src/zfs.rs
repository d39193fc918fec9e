//! (skeleton: mine)
