package kafka

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
)

// Partitioner is the partition among n on which producers of one kind put a
// key. n is at least 1.
type Partitioner func(key []byte, n int32) int32

// NewPartitioner returns the partitioner of a name: murmur2 as in Kafka's Java
// client, crc32 as librdkafka's "consistent" ones, fnv1a as sarama's default.
// All of them put a record without a key anywhere; an empty key is a key.
func NewPartitioner(name string) (Partitioner, error) {
	switch name {
	case "murmur2":
		return func(key []byte, n int32) int32 { return int32(murmur2(key)&0x7fffffff) % n }, nil
	case "crc32":
		return func(key []byte, n int32) int32 { return int32(crc32.ChecksumIEEE(key) % uint32(n)) }, nil
	case "fnv1a":
		return fnv1a, nil
	}
	return nil, fmt.Errorf("partitioner %q is not one of murmur2, crc32, fnv1a", name)
}

// murmur2 is the 32-bit hash with Kafka's seed.
func murmur2(key []byte) uint32 {
	const mix = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := binary.LittleEndian.Uint32(key) * mix
		k ^= k >> 24
		h = h*mix ^ k*mix
	}
	if len(key) > 0 {
		var tail uint32
		for i, b := range key {
			tail |= uint32(b) << (8 * i)
		}
		h = (h ^ tail) * mix
	}
	h = (h ^ h>>13) * mix
	return h ^ h>>15
}

// fnv1a takes the absolute value of the signed remainder.
func fnv1a(key []byte, n int32) int32 {
	h := fnv.New32a()
	_, _ = h.Write(key) // never fails
	p := int32(h.Sum32()) % n
	if p < 0 {
		return -p
	}
	return p
}
