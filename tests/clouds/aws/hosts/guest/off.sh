#!/bin/sh
# shutdown, poweroff, halt and reboot of a simulated host: they ask its first process.
# Signals are SIGRTMIN+4, +5 and +6: in order, in order and start again, at once.
[ -e /run/guest/init.py ] || { echo "this is not a simulated host" >&2; exit 1; }
signal=38 minutes=
[ "$(basename "$0")" != reboot ] || signal=39
for word in "$@"; do
  case $word in
    -c) kill "$(cat /run/guest/shutdown.pid)" 2>/dev/null; exit 0 ;;
    -r | --reboot) signal=39 ;;
    -f | --force | -ff) [ "$signal" = 39 ] || signal=40 ;;
    +*) minutes=${word#+} ;;
    [0-9]*:[0-9]*) minutes=$(((($(date -d "$word" +%s) - $(date +%s) + 86400) % 86400) / 60)) ;;
    now) minutes= ;;
  esac
done
if [ -z "$minutes" ] || [ "$minutes" = 0 ]; then
  kill -"$signal" 1
  exit
fi
setsid sh -c "sleep $((minutes * 60)); kill -$signal 1" >/dev/null 2>&1 </dev/null &
echo $! > /run/guest/shutdown.pid
