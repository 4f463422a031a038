package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// WriteMarkdown writes the medians as tables.
func (r *Results) WriteMarkdown(w io.Writer) error {
	var out strings.Builder
	a := r.About
	fmt.Fprintf(&out, "%s, commit %s: %s; %s; Kafka %s, %s, Java %s.\n\n`%s`\n\nMedians, least and most in brackets.\n",
		a.Date.UTC().Format(time.RFC3339), a.Commit, a.Machine, a.Cores, a.Kafka, a.Go, a.Java, a.Command)
	r.headlines(&out)
	r.drains(&out)
	r.latencies(&out)
	r.restores(&out)
	r.reads(&out)
	for _, wrong := range r.Wrong {
		fmt.Fprintf(&out, "\nNo figures, for the result was wrong: %s: %s.\n", wrong.Run, strings.Join(wrong.Reasons, "; "))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// number formats a figure with three digits that matter.
func number(x float64) string {
	switch {
	case x >= 10_000_000:
		return fmt.Sprintf("%.1f M", x/1e6)
	case x >= 1_000_000:
		return fmt.Sprintf("%.2f M", x/1e6)
	case x >= 10_000:
		return fmt.Sprintf("%.0f k", x/1e3)
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// middle formats the median of values, with their bounds if there are several.
func middle(values []float64) string {
	m := Median(values)
	switch {
	case m == nil:
		return "–"
	case len(values) == 1:
		return number(*m)
	}
	return fmt.Sprintf("%s (%s to %s)", number(*m), number(slices.Min(values)), number(slices.Max(values)))
}

func (r *Results) headlines(out *strings.Builder) {
	h := r.Headline()
	fmt.Fprint(out, "\n| meterd to Kafka Streams, round by round | as it usually is | with dedupe, as meterd |\n|---|---|---|\n")
	ratio := func(x *float64) string {
		if x == nil {
			return "–"
		}
		return number(*x)
	}
	fmt.Fprintf(out, "| events/s, times as many | %s | %s |\n", ratio(h.ThroughputRatio), ratio(h.ThroughputRatioDedupe))
	fmt.Fprintf(out, "| CPU of an event, times as little | %s | %s |\n", ratio(h.CPURatio), ratio(h.CPURatioDedupe))
}

// group returns the elements in groups of one name, in the order in which the
// names come up.
func group[T any](list []T, name func(T) string) [][]T {
	var groups [][]T
	at := map[string]int{}
	for _, x := range list {
		i, ok := at[name(x)]
		if !ok {
			i = len(groups)
			at[name(x)] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], x)
	}
	return groups
}

// column formats one figure of a group.
func column[T any](list []T, figure func(T) float64) string {
	return middle(each(list, func(T) bool { return true }, figure))
}

func (r *Results) drains(out *strings.Builder) {
	if len(r.Drains) == 0 {
		return
	}
	fmt.Fprint(out, "\n| catching up with | contender | runs | events/s | warm events/s | program µs/event | broker µs/event | changelog records/event | peak MiB | other + stolen cores |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, g := range group(r.Drains, func(d Drain) string { return d.Load + "|" + d.Contender }) {
		fmt.Fprintf(out, "| %s, %s events | %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", g[0].Load, number(float64(g[0].Events)), g[0].Contender, len(g),
			column(g, func(d Drain) float64 { return d.EventsPerSecond }), column(g, func(d Drain) float64 { return d.WarmPerSecond }),
			column(g, func(d Drain) float64 { return d.ProgramMicros }), column(g, func(d Drain) float64 { return d.BrokerMicros }),
			column(g, func(d Drain) float64 { return d.ChangelogPerEvent }), column(g, func(d Drain) float64 { return float64(d.PeakMiB) }),
			column(g, func(d Drain) float64 { return d.OtherCores + d.StolenCores }))
	}
}

func (r *Results) latencies(out *strings.Builder) {
	if len(r.Latency) == 0 {
		return
	}
	fmt.Fprint(out, "\n| append to readable limit event | contender | runs | crossings | p50 ms | p99 ms | p99.9 ms | program µs/event | broker µs/event | other + stolen cores |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, g := range group(r.Latency, func(l Latency) string { return fmt.Sprint(l.Rate, l.Contender) }) {
		fmt.Fprintf(out, "| %s events/s | %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", number(float64(g[0].Rate)), g[0].Contender, len(g),
			column(g, func(l Latency) float64 { return float64(l.Crossings) }), column(g, func(l Latency) float64 { return l.P50 }),
			column(g, func(l Latency) float64 { return l.P99 }), column(g, func(l Latency) float64 { return l.P999 }),
			column(g, func(l Latency) float64 { return l.ProgramMicros }), column(g, func(l Latency) float64 { return l.BrokerMicros }),
			column(g, func(l Latency) float64 { return l.OtherCores + l.StolenCores }))
	}
}

func (r *Results) restores(out *strings.Builder) {
	if len(r.Restores) == 0 {
		return
	}
	fmt.Fprint(out, "\n| start to the first new commit | contender | runs | seconds | peak MiB |\n|---|---|---|---|---|\n")
	for _, g := range group(r.Restores, func(x Restore) string { return fmt.Sprint(x.Counters, x.Kept, x.Contender) }) {
		state := "wiped"
		if g[0].Kept {
			state = "kept"
		}
		fmt.Fprintf(out, "| %s counters, state %s | %s | %d | %s | %s |\n", number(float64(g[0].Counters)), state, g[0].Contender, len(g),
			column(g, func(x Restore) float64 { return x.Seconds }), column(g, func(x Restore) float64 { return float64(x.PeakMiB) }))
	}
}

func (r *Results) reads(out *strings.Builder) {
	if len(r.Reads) == 0 {
		return
	}
	fmt.Fprint(out, "\n| HTTP reads while catching up | runs | answers/s | p50 ms | p99 ms | events/s meanwhile |\n|---|---|---|---|---|---|\n")
	for _, g := range group(r.Reads, func(x Reads) string { return x.Contender }) {
		fmt.Fprintf(out, "| %s | %d | %s | %s | %s | %s |\n", g[0].Contender, len(g),
			column(g, func(x Reads) float64 { return x.PerSecond }), column(g, func(x Reads) float64 { return x.P50 }),
			column(g, func(x Reads) float64 { return x.P99 }), column(g, func(x Reads) float64 { return x.EventsPerSecond }))
	}
}
