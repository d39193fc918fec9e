# The only task runner. `make demo` and `make test` do all of their own set-up; NO_INSTALL=1
# makes them only check and tell.

PREFIX  ?= /usr/local
DESTDIR ?=
BINARIES = zsnap-queue zsnap-fanout zsnap-ingest zsnap-expire

# These two by themselves: together with the others they would get their features, and link OpenPGP.
all:
	tests/packages build
	cargo build --release --locked -p zsnap-queue -p zsnap-ingest
	cargo build --release --locked -p zsnap-fanout -p zsnap-expire

demo:
	tests/packages demo
	cargo build --locked --workspace --bins
	tests/demo target/debug

# The binaries first: the tests of the whole system start them. Who is not root leaves out what needs root.
test: test-binaries
	cargo test --locked --workspace --no-fail-fast -- $$([ "$$(id -u)" = 0 ] || echo "--skip _as_root")
	@[ "$$(id -u)" = 0 ] || echo "make test: all but the tests that need root, which make test-root runs"

# By sudo, for others than root.
test-root: test-binaries
	[ "$$(id -u)" = 0 ] || set -- --config "target.'cfg(unix)'.runner='sudo'"; \
	  cargo test --locked --workspace --no-fail-fast "$$@" -- _as_root

test-binaries:
	tests/packages test
	cargo build --locked --workspace --bins
	cargo build --locked -p zsnap-fanout -p zsnap-expire

# The same promises as in `make test`, kept through many more deaths. A failure prints the seed.
torture:
	tests/packages test
	cargo build --locked --workspace --bins
	ZSNAP_TORTURE=$${ZSNAP_TORTURE:-10000} cargo test --locked -p zsnap-tests --test torture_queue --test torture_fanout --test torture_ingest --test histories --test model

check:
	tests/packages check
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

# Real OpenZFS, simplesnap and NNCP in a small virtual machine (root; minutes to build once).
test-zfs:
	tests/packages zfs
	cargo build --locked --workspace --bins
	tests/lab/build
	tests/lab/test target/debug

bench:
	tests/packages bench
	cargo build --locked --release --workspace --bins
	tests/bench target/release

# Builds only what is missing, so that root needs no Rust after `make`.
install: export TO = $(DESTDIR)$(PREFIX)
install: $(BINARIES:%=target/release/%)
	install -d "$$TO/bin" "$$TO/share/doc/zsnap"
	for b in $(BINARIES); do install -m 755 target/release/$$b "$$TO/bin/" || exit 1; done
	for page in man/*.[0-9]; do \
	  section="$$TO/share/man/man$${page##*.}"; \
	  install -d "$$section" && install -m 644 $$page "$$section/" || exit 1; done
	install -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$$TO/share/doc/zsnap/"

$(BINARIES:%=target/release/%):
	$(MAKE) all

.PHONY: all demo test test-root test-binaries torture check test-zfs bench install
