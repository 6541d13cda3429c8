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

# The keeper dies while it has a read; reads that nobody has yet come to the next one.
dead_keeper() {
	step "dead keeper"
	thaw -q accelerate --local oci:/images/function >/dev/null
	thaw -q mount --pull lazy oci:/images/function /mnt || return
	daemon=$(cat /store/daemon.pid)
	kill -STOP $daemon
	cat /mnt/srv/data >/dev/null &
	reader=$!
	sleep 1
	kill -KILL $(ps | awk '/thaw/ && /keeper/ && !/awk/ {print $1}')
	kill -CONT $daemon
	wait $reader
	echo "reader $?"
	lazy=$(md5sum </mnt/srv/data)
	thaw unmount /mnt
	thaw -q mount --transport directories oci:/images/function /mnt
	[ "$lazy" = "$(md5sum </mnt/srv/data)" ]
	echo "read again: $?"
	grep -o 'the keeper died.*' /store/daemon.log
	thaw unmount /mnt
	ended
}

# Where control groups are of the second version alone, functions are frozen and held to their memory, too.
functions() {
	step "functions"
	ip link set lo up
	thaw serve --no-auth >/tmp/serve 2>&1 &
	host=$!
	until grep -q 'functions at' /tmp/serve; do sleep 0.1; done
	cat >/tmp/template.yml <<-END
		ROSTemplateFormatVersion: '2015-09-01'
		Transform: Aliyun::Serverless-2018-04-03
		Resources:
		  demo:
		    Type: Aliyun::Serverless::Service
		    Properties: {InternetAccess: false}
		    web:
		      Type: Aliyun::Serverless::Function
		      Properties:
		        Runtime: custom-container
		        MemorySize: 128
		        Timeout: 30
		        CustomContainerConfig: {Image: 'oci:/images/function', AccelerationType: Default}
	END
	thaw -q fn deploy --yes /tmp/template.yml
	thaw fn invoke demo/web --event 'it answers'
	echo
	sleep 1
	echo "$(cat $(find /sys/fs/cgroup -name cgroup.events) | grep -c 'frozen 1') frozen"
	thaw fn invoke demo/web --event 'it goes on'
	echo
	thaw fn invoke demo/web --event 'eat 512'
	echo
	thaw fn invoke demo/web --event 'another answers'
	echo
	kill -TERM $host
	wait $host
	ended
	echo "$(grep -c /store /proc/mounts) mounts"
	echo "$(find /sys/fs/cgroup -type d -path '*thaw*/*' | grep -c .) groups"
}

steps auto
dead_keeper
steps directories
thaw daemon --stop
functions

step end
poweroff -f
