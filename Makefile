# All tasks of the project. `make demo` and `make test` install the packages that they need; with NO_INSTALL=1
# they only check for them.

PREFIX  ?= /usr/local
DESTDIR ?=
BINARIES = zsnap-queue zsnap-fanout zsnap-ingest zsnap-expire

all:
	tests/packages build
	cargo build --release --locked $(BINARIES:%=-p %)

demo:
	tests/packages demo
	cargo build --locked --workspace --bins
	tests/demo target/debug

# The binaries are built first because the tests of the whole system start them. Unless run as root, this skips the
# tests that need root.
test: test-binaries
	cargo test --locked --workspace --no-fail-fast -- $$([ "$$(id -u)" = 0 ] || echo "--skip _as_root")
	@[ "$$(id -u)" = 0 ] || echo "make test: all but the tests that need root, which make test-root runs"

# Runs the tests that need root; uses sudo unless run as root.
test-root: test-binaries
	[ "$$(id -u)" = 0 ] || set -- --config "target.'cfg(unix)'.runner='sudo'"; \
	  cargo test --locked --workspace --no-fail-fast "$$@" -- _as_root

test-binaries:
	tests/packages test
	cargo build --locked --workspace --bins

# The crash tests of `make test` with many more crashes. A failure prints the seed.
torture:
	tests/packages test
	cargo build --locked --workspace --bins
	ZSNAP_TORTURE=$${ZSNAP_TORTURE:-10000} cargo test --locked -p zsnap-tests --test torture

check:
	tests/packages check
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

# Runs the tests with real OpenZFS, simplesnap and NNCP in a small virtual machine. Needs root. Building the virtual
# machine takes some minutes, once.
test-zfs:
	tests/packages zfs
	cargo build --locked --workspace --bins
	tests/lab/build
	tests/lab/test target/debug

bench:
	tests/packages bench
	cargo build --locked --release --workspace --bins
	tests/bench target/release

# Builds only binaries that are missing, so root needs no Rust after `make`. The paths in the documentation become those
# of the installation.
install: export TO = $(DESTDIR)$(PREFIX)
install: export ETC = $(DESTDIR)/etc/zsnap
install: export BIN = $(PREFIX)/bin
install: $(BINARIES:%=target/release/%)
	[ -d "$$ETC" ] || install -d -m 755 "$$ETC"
	install -d "$$TO/bin" "$$TO/share/doc/zsnap"
	for b in $(BINARIES); do install -m 755 target/release/$$b "$$TO/bin/" || exit 1; done
	for page in man/*.[0-9]; do install -d "$$TO/share/man/man$${page##*.}" || exit 1; done
	install -m 644 CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$$TO/share/doc/zsnap/"
	bin=$$(printf %s "$$BIN" | sed 's/[\\&|]/\\&/g'); \
	for text in man/*.[0-9] README.md; do \
	  case $$text in man/*) to="$$TO/share/man/man$${text##*.}" ;; *) to="$$TO/share/doc/zsnap" ;; esac; \
	  sed -e "s|/usr/local/bin/zsnap|$$bin/zsnap|g" -e "s|PATH=/usr/local/bin|PATH=$$bin|g" $$text \
	    > "$$to/$${text##*/}" && chmod 644 "$$to/$${text##*/}" || exit 1; done

$(BINARIES:%=target/release/%):
	$(MAKE) all

.PHONY: all demo test test-root test-binaries torture check test-zfs bench install
