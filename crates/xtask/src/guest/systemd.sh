#!/bin/busybox sh
# What a guest does whose first process is systemd: the project's own units, as they are packaged. Steps as in steps.sh.
export PATH=/bin HOME=/root THAW_ROOT=/var/lib/thaw
/bin/busybox --install -s /bin 2>/dev/null
# Older kernels with TOMOYO look there for what crun executes.
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up

step() { echo "== $1"; }
ended() { echo "code $?"; }
show() { systemctl show --value --property "$1" "$2"; }
main() { show MainPID thaw.service; }
# Reads the file of that layer, which nobody has read before, and compares it.
check() { (cd /mnt && sed -n "$1p" /tmp/sums | md5sum -c); }
until_is() {
	for second in $(seq 60); do
		[ "$(systemctl is-active $1)" = $2 ] && break
		sleep 1
	done
	echo "$1 $(systemctl is-active $1)"
}

# There is no journal here.
for unit in thaw thaw-serve; do
	mkdir -p /run/systemd/system/$unit.service.d
	printf '[Service]\nStandardError=append:/tmp/log\n' >/run/systemd/system/$unit.service.d/log.conf
done

step "systemd: what is read"
thaw -q --root /other mount --transport directories oci:/images/many-layers /mnt
(cd /mnt && md5sum of-layer-*) >/tmp/sums
thaw -q --root /other gc --all >/dev/null
thaw -q --root /other daemon --stop
wc -l </tmp/sums
ended

step "systemd: begun by its socket"
systemctl start thaw.socket
until_is thaw.service inactive
thaw -q accelerate --local oci:/images/many-layers >/dev/null
until_is thaw.service active
[ "$(main)" = "$(cat $THAW_ROOT/daemon.pid)" ] && echo "one daemon"
echo "score $(cat /proc/$(main)/oom_score_adj)"
thaw mount --pull lazy oci:/images/many-layers /mnt
thaw run -d --name one --net none oci:/images/busybox -- sleep 1000 >/dev/null
check 1

step "systemd: restarted"
before=$(main)
systemctl restart thaw.service
[ "$(main)" != $before ] && echo "another daemon"
check 2
thaw exec one sh -c 'echo it runs on'
thaw rm -f one

# Nobody but systemd holds the descriptors now.
step "systemd: daemon and keeper killed"
echo "$(show NFileDescriptorStore thaw.service) descriptors kept"
kill -KILL $(main) $(ps | awk '/thaw/ && /keeper/ && !/awk/ {print $1}')
check 3
until_is thaw.service active
echo "restarts $(show NRestarts thaw.service)"

step "systemd: hangs"
printf '[Service]\nWatchdogSec=3s\n' >/run/systemd/system/thaw.service.d/short.conf
systemctl daemon-reload
systemctl restart thaw.service
before=$(main)
kill -STOP $before
check 4
until_is thaw.service active
[ "$(main)" != $before ] && echo "another daemon"
thaw unmount /mnt

step "systemd: stopped"
systemctl stop thaw.socket thaw.service
until_is thaw.service inactive
echo "$(grep -c $THAW_ROOT /proc/mounts) mounts"
echo "$(ps | awk '/[t]haw --root/' | grep -c .) processes"

step "systemd: functions"
systemctl start thaw-serve.socket
until_is thaw-serve.service inactive
wget -q -O /dev/null http://127.0.0.1:7000/
ended
until_is thaw-serve.service active
systemctl restart thaw-serve.service
wget -q -O /dev/null http://127.0.0.1:7000/
ended
systemctl stop thaw-serve.socket thaw-serve.service
until_is thaw-serve.service inactive

step "systemd: log"
cat /tmp/log

step end
poweroff -f
