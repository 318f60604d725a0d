# Makes the root of a host and becomes its first process. Runs in the host's new namespaces.
# usage: setup.sh FOLDER GUEST PYTHON FD
set -eu
IFS=$'\n' # names may hold spaces
folder=$1 guest=$2 python=$3 standing=$4
. "$folder/host.sh" # address, name, hide, keep, authority, authority_name

mkdir -p "$folder/upper" "$folder/work" "$folder/root"
root=$folder/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"

# Kept folders are found before their places are hidden.
number=0
kept=$folder/kept
mkdir -p "$kept" && mount -t tmpfs kept "$kept"
for one in $keep; do
  number=$((number + 1)) && mkdir "$kept/$number" && mount --bind "$one" "$kept/$number"
done
for one in $hide; do
  [ ! -d "$root$one" ] || mount -t tmpfs -o mode=755 hidden "$root$one"
done
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
number=0
for one in $keep; do
  number=$((number + 1))
  mkdir -p "$root$one" && mount --bind "$kept/$number" "$root$one" && mount -o remount,bind,ro "$root$one"
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
cp "$guest"/* "$folder/host.json" "$root/run/guest/" && chmod 755 "$root"/run/guest/*.sh
for place in usr/local/sbin usr/sbin usr/bin; do
  for word in shutdown poweroff halt reboot; do
    ln -sfn /run/guest/off.sh "$root/$place/$word"
  done
  ln -sfn /run/guest/systemctl.sh "$root/$place/systemctl"
  ln -sfn /run/guest/systemd-run.sh "$root/$place/systemd-run"
done

hostname "$name"
echo "$name" > "$root/etc/hostname"
printf '127.0.0.1 localhost\n%s %s.ec2.internal %s\n' "$address" "$name" "$name" > "$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
printf 'search ec2.internal\nnameserver 172.31.0.2\noptions timeout:1 attempts:2\n' > "$root/etc/resolv.conf"
mkdir -p "$root/etc/ssl/certs"
cp "$authority" "$root/etc/ssl/certs/$authority_name"
cat "$authority" >> "$root/etc/ssl/certs/ca-certificates.crt"

cd "$root"
mkdir -p run/outside
pivot_root . run/outside
cd /
umount -l /run/outside
exec env -i "$python" -I -S /run/guest/init.py "$standing"
