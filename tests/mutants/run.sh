#!/bin/sh
# Switches off one mechanism after another and expects its tests to notice: a test that cannot fail proves nothing.
#
# Each patch beside this file says which rule it breaks, what it switches off, and which tests have to fail. Names as
# arguments choose some of them. `--check` only looks whether every patch still fits the code. Commit nothing while it runs:
# the mutant of the moment would be committed too.
set -eu
cd "$(dirname "$0")/../.."

patches=tests/mutants/*.patch
check=false
if [ "${1:-}" = --check ]; then
  check=true
elif [ $# -gt 0 ]; then
  patches=$(printf 'tests/mutants/%s.patch ' "$@")
fi

# Before anything is built: a patch that fits no more is to be written anew.
for patch in $patches; do
  git apply --check "$patch" || {
    echo "$patch does not fit the code; make the change it describes by hand and keep it with git diff" >&2
    exit 1
  }
done
$check && exit 0

git diff --quiet HEAD -- src migrations || {
  echo "src or migrations have changes; commit or stash them first, since mutants are made there" >&2
  exit 1
}
log=$(mktemp)
applied=
restore() {
  [ -z "$applied" ] || git apply -R "$applied"
  applied=
}
trap 'restore; rm -f "$log"' EXIT
trap 'exit 130' INT TERM

survivors=
for patch in $patches; do
  name=$(basename "$patch" .patch)
  tests=$(sed -n 's/^Test: //p' "$patch")
  case $tests in
    --lib*) target=--lib tests=${tests#--lib} ;;
    *) target="--test it" ;;
  esac
  git apply "$patch"
  applied=$patch
  # shellcheck disable=SC2086
  if ! cargo test --quiet $target --no-run >"$log" 2>&1; then
    cat "$log" >&2
    survivors="$survivors $name"
    echo "$name: DOES NOT BUILD"
  # shellcheck disable=SC2086
  elif cargo test --quiet $target -- $tests >"$log" 2>&1; then
    survivors="$survivors $name"
    echo "$name: NOT NOTICED by $tests"
  else
    echo "$name: $(sed -n 's/^Off: *//p' "$patch")"
    sed -n '/^failures:$/,$p' "$log" | sed -n 's/^    \([a-z_:0-9]*\)$/  noticed by \1/p' | sort -u
  fi
  restore
done
[ -z "$survivors" ] || {
  echo "not noticed, or not built:$survivors" >&2
  exit 1
}
