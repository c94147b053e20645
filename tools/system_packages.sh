#!/bin/sh
# Install the servers and the browser that the tests need, where that is allowed; else say in one line what is left out.
#
# Needs root and apt. MAINSTAY_NO_SYSTEM=1 declines. The tests start private copies of these
# servers, so the services that come with the packages are not started.
set -eu

missing=""
need() { missing="$missing $1"; }
command -v redis-server >/dev/null || need redis-server
command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ] || need rabbitmq-server
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || need postgresql
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  need chromium
[ -n "$missing" ] || exit 0

refusal=""
if [ "${MAINSTAY_NO_SYSTEM:-0}" = 1 ]; then
  refusal="MAINSTAY_NO_SYSTEM=1"
elif ! command -v apt-get >/dev/null; then
  refusal="there is no apt-get here"
elif [ "$(id -u)" -ne 0 ]; then
  refusal="installing them needs root"
fi
if [ -n "$refusal" ]; then
  echo "Left out: tests that need$missing (not installed; $refusal)"
  exit 0
fi

echo "Installing system packages:$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
quietly() { "$@" </dev/null >"$log" 2>&1 || { cat "$log"; return 1; }; }
# The package lists of a fresh machine or image are empty or old.
# shellcheck disable=SC2086 # one word is one package
quietly apt-get install -y --no-install-recommends $missing ||
  { quietly apt-get update && quietly apt-get install -y --no-install-recommends $missing; } ||
  echo "apt-get could not install$missing; the tests that need them are left out, and fail in CI"
rm -f "$log"
