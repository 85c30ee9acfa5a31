#!/usr/bin/env python3
# Throws mutated adverts of VRRPv3 at the network, of both families, and says what the RFC makes of each.
#   adversary.py CARD COUNT SEED VRID PRIORITY_MOST V4,V4... V6,V6...
# After each batch it prints "counted other accepted": how many a receiver has to discard and count, how many are of
# another virtual router, and how many it has to take in; then it waits for a line. What has to be taken in bears a priority
# below PRIORITY_MOST and not 0, so that nobody's state has a reason to change.
import random
import sys

from scapy.arch import get_if_hwaddr
from scapy.config import conf
from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.l2 import Ether
from scapy.layers.vrrp import VRRPv3
from scapy.packet import Raw
from scapy.utils import checksum
import socket

BATCH = 200
PROTOCOL = 112

card, count, seed, vrid, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
addresses = {4: sys.argv[6].split(","), 6: sys.argv[7].split(",")}
source = {4: sys.argv[8], 6: None}
rng = random.Random(seed)
mac = get_if_hwaddr(card)
for line in open("/proc/net/if_inet6"):
    field = line.split()
    if field[5] == card and field[3] == "20":  # scope link
        source[6] = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(field[0]))
group = {4: "224.0.0.18", 6: "ff02::12"}
group_mac = {4: "01:00:5e:00:00:12", 6: "33:33:00:00:00:12"}
family_of = {4: socket.AF_INET, 6: socket.AF_INET6}


def header(family, ttl):
    if family == 4:
        return IP(src=source[4], dst=group[4], ttl=ttl, proto=PROTOCOL, tos=0xC0)
    return IPv6(src=source[6], dst=group[6], hlim=ttl, nh=PROTOCOL, tc=0xC0)


def with_pseudo_header(family, payload):
    if family == 4:
        return in4_chksum(PROTOCOL, header(4, 255), payload)
    return in6_chksum(PROTOCOL, header(6, 255), payload)


def right(family, payload):
    """The payload with a checksum that is right."""
    if len(payload) < 8:
        return payload
    blank = payload[:6] + b"\0\0" + payload[8:]
    return blank[:6] + with_pseudo_header(family, blank).to_bytes(2, "big") + blank[8:]


def advert(family):
    """An advert that has to be taken in, made by scapy."""
    size = 4 if family == 4 else 16
    packet = VRRPv3(version=3, type=1, vrid=vrid, priority=rng.randrange(1, most), ipcount=0, adv=100)
    body = bytes(packet)[:8]
    body = body[:3] + bytes([len(addresses[family])]) + body[4:]
    for address in addresses[family]:
        body += socket.inet_pton(family_of[family], address)
    assert len(body) == 8 + size * len(addresses[family])
    return right(family, body)


def mutate(family, payload):
    """One or more faults, and the hop count that it is sent with."""
    ttl = 255
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.randrange(13)
        body = bytearray(payload)
        at = rng.randrange(len(body)) if body else 0
        if kind == 0 and body:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and body:
            body[0] = rng.randrange(256)
        elif kind == 2 and len(body) > 1:
            body[1] = rng.randrange(256)
        elif kind == 3 and len(body) > 2:
            body[2] = rng.randrange(256)
        elif kind == 4 and len(body) > 3:
            body[3] = rng.choice([0, 1, 2, 3, 4, 20, 255, rng.randrange(256)])
        elif kind == 5 and len(body) > 5:
            body[4], body[5] = rng.randrange(256), rng.randrange(256)
        elif kind == 6 and len(body) > 5:
            body[4], body[5] = body[4] & 0xF0, 0
        elif kind == 7 and len(body) > 7:
            body[6], body[7] = rng.randrange(256), rng.randrange(256)
        elif kind == 8:
            body = body[:at]
        elif kind == 9:
            body += bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 8, 16, 28])))
        elif kind == 10:
            ttl = rng.choice([0, 1, 64, 254, rng.randrange(1, 256)]) or 1
        elif kind == 11:
            body = bytearray(rng.randrange(256) for _ in range(rng.randrange(64)))
        elif kind == 12 and len(body) > 8:
            body[rng.randrange(8, len(body))] = rng.randrange(256)
        payload = bytes(body)
    if rng.random() < 0.6:
        payload = right(family, payload)
    return payload, ttl


def verdict(family, payload, ttl):
    """RFC 9568, section 7.1, and where it leaves a choice what the agent promises: a length that is not exact and an
    interval of 0 are faults, on IPv4 either form of the checksum is right (section 5.2.8), and whatever bears the identifier
    of another virtual router is not for it to judge."""
    size = 4 if family == 4 else 16
    if ttl != 255 or len(payload) < 8:
        return "counted"
    if payload[1] != vrid:
        return "other"
    if payload[0] >> 4 != 3 or payload[0] & 15 != 1:
        return "counted"
    if len(payload) != 8 + size * payload[3]:
        return "counted"
    blank, sent = payload[:6] + b"\0\0" + payload[8:], int.from_bytes(payload[6:8], "big")
    # The two zeros of ones' complement are the same.
    same = lambda a, b: a == b or {a, b} == {0, 0xFFFF}
    if not same(with_pseudo_header(family, blank), sent) and not (family == 4 and same(checksum(blank), sent)):
        return "counted"
    if int.from_bytes(payload[4:6], "big") & 0x0FFF == 0:
        return "counted"
    return "accepted"


wire = conf.L2socket(iface=card)
done = 0
while done < count:
    tally = {"counted": 0, "other": 0, "accepted": 0}
    for _ in range(min(BATCH, count - done)):
        while True:
            family = rng.choice([4, 6])
            payload, ttl = mutate(family, advert(family))
            says = verdict(family, payload, ttl)
            if says != "accepted" or 0 < payload[2] < most:
                break
        frame = Ether(src=mac, dst=group_mac[family]) / header(family, ttl) / Raw(payload)
        wire.send(frame)
        tally[says] += 1
        done += 1
    print(tally["counted"], tally["other"], tally["accepted"], flush=True)
    if not sys.stdin.readline():
        break
