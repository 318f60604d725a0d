# Makes the root of a host and becomes its first process. Runs in the host's new namespaces.
# usage: setup.sh FOLDER GUEST PYTHON FD
set -eu
folder=$1 guest=$2 python=$3 standing=$4
told() { "$python" -I -S -c 'import json, sys; value = json.load(open(sys.argv[1]))[sys.argv[2]]; print("\n".join(value) if isinstance(value, list) else value)' "$folder/host.json" "$1"; }

mkdir -p "$folder/upper" "$folder/work" "$folder/root"
root=$folder/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"

# Kept folders are found before their places are hidden.
kept=$(told keep)
number=0
mkdir -p /run/kept && mount -t tmpfs kept /run/kept
for one in $kept; do
  number=$((number + 1)) && mkdir "/run/kept/$number" && mount --bind "$one" "/run/kept/$number"
done
for one in $(told hide); do
  [ ! -d "$root$one" ] || mount -t tmpfs -o mode=755 hidden "$root$one"
done
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
number=0
for one in $kept; do
  number=$((number + 1))
  mkdir -p "$root$one" && mount --bind "/run/kept/$number" "$root$one" && mount -o remount,bind,ro "$root$one"
done

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for one in null zero full random urandom tty; do
  touch "$root/dev/$one" && mount --bind "/dev/$one" "$root/dev/$one"
done
mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for one in 0 1 2; do ln -s "/proc/self/fd/$one" "$root/dev/$(echo stdin stdout stderr | cut -d' ' -f$((one + 1)))"; done

# The words that switch a machine off must mean this one, by whatever path they are called.
mkdir -p "$root/run/systemd/system" "$root/run/guest/units"
for place in usr/local/sbin usr/sbin usr/bin; do
  for word in shutdown poweroff halt reboot systemctl systemd-run; do
    case $word in systemctl) with=systemctl.sh ;; systemd-run) with=systemd-run.sh ;; *) with=off.sh ;; esac
    rm -f "$root/$place/$word" && cp "$guest/$with" "$root/$place/$word" && chmod 755 "$root/$place/$word"
  done
done

name=$(told name) address=$(told address)
hostname "$name"
echo "$name" > "$root/etc/hostname"
printf '127.0.0.1 localhost\n%s %s.ec2.internal %s\n' "$address" "$name" "$name" > "$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
printf 'search ec2.internal\nnameserver 172.31.0.2\noptions timeout:1 attempts:2\n' > "$root/etc/resolv.conf"
mkdir -p "$root/etc/ssl/certs"
cp "$(told authority)" "$root/etc/ssl/certs/$(told authority_name)"
[ -e "$root/run/guest/trusted" ] || cat "$(told authority)" >> "$root/etc/ssl/certs/ca-certificates.crt"
cp "$guest/init.py" "$folder/host.json" "$root/run/guest/"

cd "$root"
mkdir -p run/outside
pivot_root . run/outside
cd /
umount -l /run/outside
exec env -i "$python" -I -S /run/guest/init.py "$standing"
