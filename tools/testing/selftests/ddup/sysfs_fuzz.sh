#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random writes to each file of a device in sysfs are taken or refused as the knobs' ranges say, and
# do no harm to I/O; nobody changes anything.
# vm: disk=1G mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

WRITES=${WRITES:-1000}
SEED=${SEED:-1}

# Writes random bytes to all files of the device; knobs.json says what they may become.
fuzz() { # device user
	python3 - "$1" "$2" "$WRITES" "$SEED" <<-'EOF2'
		import errno, json, os, random, re, sys
		device, user, writes, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
		random = random.Random(f"{user} {seed}")
		folder = f"/sys/block/{device}/ddup"
		with open("/tmp/ddup-test.knobs") as file:
		    knobs = {knob["name"]: knob for knob in json.load(file)["knobs"]}
		names = sorted(os.listdir(folder))
		assert set(knobs) < set(names)
		if user == "nobody":
		    os.setgroups([])
		    os.setgid(65534)
		    os.setuid(65534)

		def number():
		    bits = random.choice((1, 8, 16, 31, 32, 33, 63, 64, 65, 128))
		    near = random.choice((0, 1 << bits, (1 << bits) - 1))
		    return random.choice((near, near + 1, random.getrandbits(bits), random.randrange(200)))

		def content(name):
		    knob = knobs.get(name, {"min": 0, "max": 1})
		    value = random.choice((number(), knob["min"], knob["max"], knob["min"] - 1, knob["max"] + 1))
		    text = random.choice(("%d", "0x%x", "-%d", "+%d", "%d ", "\n%d\n", "0%d", "%dK", "0x%dg", "%d %d", "%d\0"))
		    text = (text.replace("%d %d", f"{value} {value}") if "%d %d" in text else text % value).encode()
		    kind = random.randrange(8)
		    if kind == 0:
		        return random.randbytes(random.choice((0, 1, 7, 64, 4095, 4096, 9000)))
		    if kind == 1:
		        return b"9" * random.randrange(5000)
		    if kind == 2:
		        at = random.randrange(len(text) + 1)
		        return text[:at] + random.randbytes(1) + text[at:]
		    return text

		def read(name):
		    with open(f"{folder}/{name}", "rb") as file:
		        return file.read()

		counts = {}
		for round in range(writes):
		    name = random.choice(names if user == "nobody" or random.randrange(4) == 0 else sorted(knobs))
		    data, before = content(name), read(name)
		    try:
		        fd = os.open(f"{folder}/{name}", os.O_WRONLY)
		        try:
		            done = os.write(fd, data)
		            result = "taken" if done else "nothing"
		        finally:
		            os.close(fd)
		    except OSError as error:
		        result = errno.errorcode[error.errno]
		    counts[result] = counts.get(result, 0) + 1
		    what = f"round {round}: {name} {before!r}, {data[:80]!r} -> {result}, now {read(name)!r}"
		    if name not in knobs or user == "nobody":
		        assert result == "EACCES", what
		        continue
		    after = int(read(name))
		    if result != "taken":
		        assert result == "nothing" if not data else result in ("EINVAL", "ERANGE"), what
		        assert int(before) == after, what
		        continue
		    # White space around it is that of Unicode; a file takes a page at most.
		    said = data.decode().strip()
		    assert re.fullmatch(r"[0-9]+|0x[0-9a-fA-F]+", said), what
		    assert int(said, 16 if said.startswith("0x") else 10) == after, what
		    assert knobs[name]["min"] <= after <= knobs[name]["max"], what
		print(user, dict(sorted(counts.items())))
		wanted = {"EACCES"} if user == "nobody" else {"EACCES", "EINVAL", "ERANGE", "taken"}
		assert wanted <= set(counts), f"some results never came: {counts}"
	EOF2
}

random_writes_are_taken_or_refused_by_range() {
	ddup format --force --size 512M /dev/vda
	attach /dev/vda
	ddup get --json "$ddup" >/tmp/ddup-test.knobs
	defer rm -f /tmp/ddup-test.knobs
	# Whatever the knobs are, what is written is read back.
	fio --name=load --filename="$ddup" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=16 \
		--size=32M --verify=crc32c --verify_fatal=1 --output=/tmp/ddup-test.fio &
	local load=$!
	defer rm -f /tmp/ddup-test.fio
	fuzz "${ddup##*/}" root
	wait "$load" || fail "$(cat /tmp/ddup-test.fio)"
	local before
	before=$(ddup get "$ddup")
	fuzz "${ddup##*/}" nobody
	[ "$before" = "$(ddup get "$ddup")" ]
	ddup detach "$ddup"
	ddup check /dev/vda
}

load
run_tests random_writes_are_taken_or_refused_by_range
