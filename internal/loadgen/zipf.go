package loadgen

import "math"

// picker draws clients in constant time, client n with a weight of
// 1/(n+1)^exponent, by Vose's alias method: each of equally likely columns is
// shared by at most two clients.
type picker struct {
	share []uint32 // of a column that is its own client's, in 2^-32
	other []uint32 // whose the rest is
}

func newPicker(clients int, exponent float64) *picker {
	p := &picker{share: make([]uint32, clients), other: make([]uint32, clients)}
	weight := make([]float64, clients)
	sum := 0.0
	for n := range weight {
		weight[n] = math.Pow(float64(n+1), -exponent)
		sum += weight[n]
	}
	var poor, rich []uint32
	for n := range weight {
		weight[n] *= float64(clients) / sum
		p.share[n], p.other[n] = math.MaxUint32, uint32(n)
		if weight[n] < 1 {
			poor = append(poor, uint32(n))
		} else {
			rich = append(rich, uint32(n))
		}
	}
	for len(poor) > 0 && len(rich) > 0 {
		low, high := poor[len(poor)-1], rich[len(rich)-1]
		poor = poor[:len(poor)-1]
		p.share[low], p.other[low] = uint32(weight[low]*math.MaxUint32), high
		if weight[high] -= 1 - weight[low]; weight[high] < 1 {
			rich = rich[:len(rich)-1]
			poor = append(poor, high)
		}
	}
	return p
}

// client returns the client that a hash draws.
func (p *picker) client(h uint64) int {
	column := uint64(uint32(h)) * uint64(len(p.share)) >> 32
	if uint32(scatter(h)) > p.share[column] {
		return int(p.other[column])
	}
	return int(column)
}
