#!/bin/busybox sh
# What a guest does. Each step begins with "== NAME"; guest.rs knows what must be in it.
export PATH=/bin HOME=/root THAW_ROOT=/store
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm /dev/pts
mount -t devpts pts /dev/pts
# Older kernels with TOMOYO look there for what crun executes.
ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname guest

step() { echo "== $1"; }
ended() { echo "code $?"; }

step kernel
uname -r

step doctor
thaw doctor

# Everything by one way.
steps() {
	way=$1
	by="--transport $way"

	step "$way: run"
	thaw run --rm --net none --timing $by oci:/images/busybox
	ended

	step "$way: run again"
	thaw run --rm --net none $by oci:/images/busybox
	ended

	step "$way: detached"
	limits="--memory 64m --cpus 1 --pids-limit 50 --volume data:/data --tmpfs /tmp"
	thaw run -d --net none --name first $limits $by oci:/images/busybox -- sleep 1000 >/dev/null
	thaw exec first sh -c 'echo from inside; echo x > /srv/message; echo y > /data/y'
	thaw ps
	thaw images
	thaw inspect oci:/images/busybox
	thaw logs first
	thaw stop -t 1 first && thaw rm first
	ended

	step "$way: many layers"
	thaw -q mount $by oci:/images/many-layers /mnt
	cat /mnt/latest
	echo
	echo "$(ls /mnt | wc -l) names"
	thaw unmount /mnt
	ended

	step "$way: implied parents"
	thaw -q mount $by oci:/images/implied-parents /mnt
	stat -c '%a %u:%g' /mnt/d
	echo "$(ls /mnt/d | wc -l) names"
	thaw unmount /mnt
	ended

	step "$way: links across layers"
	thaw -q mount $by oci:/images/links-across-layers /mnt
	cat /mnt/third
	echo
	echo "$(ls -i /mnt /mnt/d | grep -c "$(stat -c %i /mnt/third) ") links"
	thaw unmount /mnt
	ended

	step "$way: accelerate"
	thaw -q accelerate --local oci:/images/busybox
	ended

	step "$way: lazy"
	thaw gc --all >/dev/null
	thaw -q accelerate --local oci:/images/busybox >/dev/null
	thaw run --rm --net none --pull lazy $by oci:/images/busybox
	echo "ended with $?"

	step "$way: gc"
	thaw gc --all | grep -v '^remove .* blob '
	ended
	sleep 1
	stores="/store/trees /store/corrections /store/layers /store/blobs"
	echo "$(ls $stores | grep -c '[0-9a-f]\{64\}') left"
	echo "$(grep -c /store /proc/mounts) mounts"
}

steps auto
steps directories
thaw daemon --stop

step end
poweroff -f
