//! zsnap-ingest: what it receives and in which order, what it rejects, quarantines or holds, and what it reports.

mod ahead;
mod check;
mod hostile;
mod limits;
mod newer;
mod order;
mod partial;
mod prefetch;
mod replay;
mod run;
mod saboteur;
mod seed_receive;
mod shortage;
mod silence;
mod status;
mod stick;
mod tar;
