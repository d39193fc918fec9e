#!/bin/bash
# The queue script of "How & Why To Use Airgapped Backups" (use of nncp-file instead of
# nncp-exec), with the recipient and the transport as variables: NNCP_FILE gets what
# `nncp-file -nice B -noprogress - 'backupsvr:$FILE'` gets, with FILE in its environment.

set -e
set -o pipefail

DEST="`echo $1 | sed 's,^tank/simplesnap/,,'`"
FILE="bakfsfmt2-`date "+%s.%N".$$`_`echo "$DEST" | sed 's,/,@,g'`"
export FILE

echo "Processing $DEST to $FILE" >&2
# stdin piped to this
zstd -8 - \
  | gpg --compress-algo none --cipher-algo AES256 -e -r "$RECIPIENT" \
  | sh -c "$NNCP_FILE" >&2

echo "Queued $DEST to $FILE" >&2
