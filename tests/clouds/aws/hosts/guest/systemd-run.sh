#!/bin/sh
# systemd-run of a simulated host: --on-active=SECONDS[s], --on-calendar=TIME, --unit=NAME, then a command.
delay=0 unit=run-$$
while [ $# -gt 0 ]; do
  case $1 in
    --on-active=*) delay=${1#*=} && delay=${delay%s} ;;
    --on-calendar=*) delay=$(($(date -d "${1#*=}" +%s) - $(date +%s))) ;;
    --unit=*) unit=${1#*=} && unit=${unit%.timer} ;;
    --) shift && break ;;
    -*) ;;
    *) break ;;
  esac
  shift
done
case $delay in '' | *[!0-9]*) echo "systemd-run: a delay of '$delay' is not understood here" >&2; exit 1 ;; esac
rm -f "/run/guest/units/$unit"
setsid sh -c 'echo $$ > "/run/guest/units/$1"; sleep "$2"; shift 2; exec "$@"' sh "$unit" "$delay" "$@" \
  >/dev/null 2>&1 </dev/null &
while [ ! -s "/run/guest/units/$unit" ]; do sleep 0.01; done
