package usage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/usage"
)

// utc reads a time in UTC without its zone, as the tables below have it.
func utc(t *testing.T, text string) usage.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02T15:04", text)
	require.NoError(t, err)
	return usage.TimeOf(at)
}

// row is a run of periods: each id with its start in UTC, and the end of the
// last.
type row struct {
	zone    string
	periods string
	end     string
}

// requireRun demands that schedule cuts time as r says.
func requireRun(t *testing.T, schedule usage.Schedule, r row) {
	t.Helper()
	words := strings.Fields(r.periods)
	require.Zero(t, len(words)%2, "ids and starts")
	for i := 0; i < len(words); i += 2 {
		end := r.end
		if i+3 < len(words) {
			end = words[i+3]
		}
		want := usage.Period{ID: words[i], Start: utc(t, words[i+1]), End: utc(t, end), Timezone: schedule.Zone.String()}
		for _, at := range []usage.Time{want.Start, want.Start + (want.End-want.Start)/2, want.End - 1} {
			require.Equal(t, want, schedule.At(at), "at %s", at)
		}
		require.NotEqual(t, want, schedule.At(want.Start-1))
		require.Equal(t, want.End, schedule.Next(want).Start)
	}
}

// What clocks did in these zones was looked up and the sums were done by hand:
// Berlin and New York move by an hour at night, Lord Howe Island by half an
// hour; São Paulo did so at midnight, Saint John's a minute after it; Kathmandu
// is at a quarter of an hour, and moved there by a quarter; Apia left out
// 30 December 2011.
func TestPeriodTables(t *testing.T) {
	t.Parallel()

	tables := map[usage.Kind][]row{
		usage.Hour: {
			{"Europe/Berlin", "2026-03-29T01+01:00 2026-03-29T00:00 2026-03-29T03+02:00 2026-03-29T01:00", "2026-03-29T02:00"},
			{"Europe/Berlin", "2026-10-25T02+02:00 2026-10-25T00:00 2026-10-25T02+01:00 2026-10-25T01:00 2026-10-25T03+01:00 2026-10-25T02:00", "2026-10-25T03:00"},
			{"America/New_York", "2026-03-08T01-05:00 2026-03-08T06:00 2026-03-08T03-04:00 2026-03-08T07:00", "2026-03-08T08:00"},
			{"America/New_York", "2026-11-01T01-04:00 2026-11-01T05:00 2026-11-01T01-05:00 2026-11-01T06:00 2026-11-01T02-05:00 2026-11-01T07:00", "2026-11-01T08:00"},
			{"Australia/Lord_Howe", "2026-04-05T01+11:00 2026-04-04T14:00 2026-04-05T01+10:30 2026-04-04T15:00 2026-04-05T02+10:30 2026-04-04T15:30", "2026-04-04T16:30"},
			{"Australia/Lord_Howe", "2026-10-04T01+10:30 2026-10-03T14:30 2026-10-04T02+11:00 2026-10-03T15:30 2026-10-04T03+11:00 2026-10-03T16:00", "2026-10-03T17:00"},
			{"Asia/Kathmandu", "2026-11-22T10+05:45 2026-11-22T04:15 2026-11-22T11+05:45 2026-11-22T05:15", "2026-11-22T06:15"},
			{"Asia/Kathmandu", "1985-12-31T23+05:30 1985-12-31T17:30 1986-01-01T00+05:45 1985-12-31T18:30 1986-01-01T01+05:45 1985-12-31T19:15", "1985-12-31T20:15"},
			{"Pacific/Apia", "2011-12-29T23-10:00 2011-12-30T09:00 2011-12-31T00+14:00 2011-12-30T10:00", "2011-12-30T11:00"},
			{"America/Sao_Paulo", "2018-11-03T23-03:00 2018-11-04T02:00 2018-11-04T01-02:00 2018-11-04T03:00", "2018-11-04T04:00"},
			{"America/Sao_Paulo", "2018-02-17T23-02:00 2018-02-18T01:00 2018-02-17T23-03:00 2018-02-18T02:00 2018-02-18T00-03:00 2018-02-18T03:00", "2018-02-18T04:00"},
			{"America/St_Johns", "2010-11-06T23-02:30 2010-11-07T01:30 2010-11-07T00-02:30 2010-11-07T02:30 2010-11-06T23-03:30 2010-11-07T02:31 2010-11-07T00-03:30 2010-11-07T03:30", "2010-11-07T04:30"},
		},
		usage.Day: {
			{"Europe/Berlin", "2026-03-28 2026-03-27T23:00 2026-03-29 2026-03-28T23:00 2026-03-30 2026-03-29T22:00", "2026-03-30T22:00"},
			{"Europe/Berlin", "2026-10-24 2026-10-23T22:00 2026-10-25 2026-10-24T22:00 2026-10-26 2026-10-25T23:00", "2026-10-26T23:00"},
			{"America/New_York", "2026-03-08 2026-03-08T05:00 2026-03-09 2026-03-09T04:00", "2026-03-10T04:00"},
			{"America/New_York", "2026-11-01 2026-11-01T04:00 2026-11-02 2026-11-02T05:00", "2026-11-03T05:00"},
			{"Australia/Lord_Howe", "2026-04-05 2026-04-04T13:00 2026-04-06 2026-04-05T13:30", "2026-04-06T13:30"},
			{"Australia/Lord_Howe", "2026-10-04 2026-10-03T13:30 2026-10-05 2026-10-04T13:00", "2026-10-05T13:00"},
			{"Asia/Kathmandu", "1985-12-31 1985-12-30T18:30 1986-01-01 1985-12-31T18:30 1986-01-02 1986-01-01T18:15", "1986-01-02T18:15"},
			{"Pacific/Apia", "2011-12-28 2011-12-28T10:00 2011-12-29 2011-12-29T10:00 2011-12-31 2011-12-30T10:00 2012-01-01 2011-12-31T10:00", "2012-01-01T10:00"},
			{"America/Sao_Paulo", "2018-11-03 2018-11-03T03:00 2018-11-04 2018-11-04T03:00 2018-11-05 2018-11-05T02:00", "2018-11-06T02:00"},
			{"America/Sao_Paulo", "2018-02-17 2018-02-17T02:00 2018-02-18 2018-02-18T03:00", "2018-02-19T03:00"},
			{"America/St_Johns", "2010-11-06 2010-11-06T02:30 2010-11-07 2010-11-07T02:30 2010-11-08 2010-11-08T03:30", "2010-11-09T03:30"},
		},
		usage.Week: {
			{"Europe/Berlin", "2026-W12 2026-03-15T23:00 2026-W13 2026-03-22T23:00 2026-W14 2026-03-29T22:00", "2026-04-05T22:00"},
			{"Europe/Berlin", "2026-W43 2026-10-18T22:00 2026-W44 2026-10-25T23:00", "2026-11-01T23:00"},
			{"Europe/Berlin", "2026-W53 2026-12-27T23:00 2027-W01 2027-01-03T23:00", "2027-01-10T23:00"},
			{"America/New_York", "2026-W10 2026-03-02T05:00 2026-W11 2026-03-09T04:00", "2026-03-16T04:00"},
			{"America/New_York", "2026-W44 2026-10-26T04:00 2026-W45 2026-11-02T05:00", "2026-11-09T05:00"},
			{"Australia/Lord_Howe", "2026-W14 2026-03-29T13:00 2026-W15 2026-04-05T13:30", "2026-04-12T13:30"},
			{"Australia/Lord_Howe", "2026-W40 2026-09-27T13:30 2026-W41 2026-10-04T13:00", "2026-10-11T13:00"},
			{"Asia/Kathmandu", "2026-W47 2026-11-15T18:15 2026-W48 2026-11-22T18:15", "2026-11-29T18:15"},
			{"Pacific/Apia", "2011-W51 2011-12-19T10:00 2011-W52 2011-12-26T10:00 2012-W01 2012-01-01T10:00", "2012-01-08T10:00"},
			{"America/Sao_Paulo", "2018-W44 2018-10-29T03:00 2018-W45 2018-11-05T02:00", "2018-11-12T02:00"},
		},
		usage.Month: {
			{"Europe/Berlin", "2026-02 2026-01-31T23:00 2026-03 2026-02-28T23:00 2026-04 2026-03-31T22:00", "2026-04-30T22:00"},
			{"Europe/Berlin", "2026-10 2026-09-30T22:00 2026-11 2026-10-31T23:00", "2026-11-30T23:00"},
			{"Europe/Berlin", "2024-02 2024-01-31T23:00 2024-03 2024-02-29T23:00", "2024-03-31T22:00"},
			{"America/New_York", "2026-03 2026-03-01T05:00 2026-04 2026-04-01T04:00", "2026-05-01T04:00"},
			{"America/New_York", "2026-11 2026-11-01T04:00 2026-12 2026-12-01T05:00", "2027-01-01T05:00"},
			{"Australia/Lord_Howe", "2026-04 2026-03-31T13:00 2026-05 2026-04-30T13:30", "2026-05-31T13:30"},
			{"Australia/Lord_Howe", "2026-10 2026-09-30T13:30 2026-11 2026-10-31T13:00", "2026-11-30T13:00"},
			{"Asia/Kathmandu", "1985-12 1985-11-30T18:30 1986-01 1985-12-31T18:30 1986-02 1986-01-31T18:15", "1986-02-28T18:15"},
			{"Pacific/Apia", "2011-11 2011-11-01T10:00 2011-12 2011-12-01T10:00 2012-01 2011-12-31T10:00", "2012-01-31T10:00"},
			{"America/Sao_Paulo", "2018-02 2018-02-01T02:00 2018-03 2018-03-01T03:00", "2018-04-01T03:00"},
			{"America/Sao_Paulo", "2018-10 2018-10-01T03:00 2018-11 2018-11-01T03:00 2018-12 2018-12-01T02:00", "2019-01-01T02:00"},
		},
		usage.Quarter: {
			{"Europe/Berlin", "2026-Q1 2025-12-31T23:00 2026-Q2 2026-03-31T22:00 2026-Q3 2026-06-30T22:00 2026-Q4 2026-09-30T22:00 2027-Q1 2026-12-31T23:00", "2027-03-31T22:00"},
			{"America/New_York", "2026-Q1 2026-01-01T05:00 2026-Q2 2026-04-01T04:00 2026-Q3 2026-07-01T04:00 2026-Q4 2026-10-01T04:00", "2027-01-01T05:00"},
			{"Australia/Lord_Howe", "2026-Q1 2025-12-31T13:00 2026-Q2 2026-03-31T13:00 2026-Q3 2026-06-30T13:30 2026-Q4 2026-09-30T13:30", "2026-12-31T13:00"},
			{"Asia/Kathmandu", "1985-Q4 1985-09-30T18:30 1986-Q1 1985-12-31T18:30", "1986-03-31T18:15"},
			{"Pacific/Apia", "2011-Q4 2011-10-01T10:00 2012-Q1 2011-12-31T10:00", "2012-03-31T10:00"},
		},
		usage.Year: {
			{"Europe/Berlin", "2024 2023-12-31T23:00 2025 2024-12-31T23:00 2026 2025-12-31T23:00", "2026-12-31T23:00"},
			{"America/New_York", "2025 2025-01-01T05:00 2026 2026-01-01T05:00", "2027-01-01T05:00"},
			{"Australia/Lord_Howe", "2026 2025-12-31T13:00 2027 2026-12-31T13:00", "2027-12-31T13:00"},
			{"Asia/Kathmandu", "1985 1984-12-31T18:30 1986 1985-12-31T18:30", "1986-12-31T18:15"},
			{"Pacific/Apia", "2011 2011-01-01T10:00 2012 2011-12-31T10:00", "2012-12-31T10:00"},
			{"America/Sao_Paulo", "2018 2018-01-01T02:00 2019 2019-01-01T02:00", "2020-01-01T03:00"},
		},
	}
	for kind, rows := range tables {
		for _, r := range rows {
			first, _, _ := strings.Cut(r.periods, " ")
			t.Run(fmt.Sprintf("%s %s %s", kind, r.zone, first), func(t *testing.T) {
				t.Parallel()

				schedule, err := usage.NewSchedule(kind, r.zone)
				require.NoError(t, err)
				requireRun(t, schedule, r)
			})
		}
	}
}

func TestAnniversaryTables(t *testing.T) {
	t.Parallel()

	tests := map[string]row{
		"the 29th has no day in February": {
			"UTC", "2025-01-29 2025-01-29T00:00 2025-02-28 2025-02-28T00:00 2025-03-29 2025-03-29T00:00", "2025-04-29T00:00",
		},
		"the 30th": {
			"UTC", "2025-01-30 2025-01-30T12:00 2025-02-28 2025-02-28T12:00 2025-03-30 2025-03-30T12:00", "2025-04-30T12:00",
		},
		"the 31st, in a leap year": {
			"UTC", "2023-12-31 2023-12-31T12:00 2024-01-31 2024-01-31T12:00 2024-02-29 2024-02-29T12:00 2024-03-31 2024-03-31T12:00 2024-04-30 2024-04-30T12:00 2024-05-31 2024-05-31T12:00",
			"2024-06-30T12:00",
		},
		"a leap day": {
			"Europe/Berlin", "2024-02-29 2024-02-28T23:00 2024-03-29 2024-03-28T23:00 2024-04-29 2024-04-28T22:00 2024-05-29 2024-05-28T22:00 2024-06-29 2024-06-28T22:00 " +
				"2024-07-29 2024-07-28T22:00 2024-08-29 2024-08-28T22:00 2024-09-29 2024-09-28T22:00 2024-10-29 2024-10-28T23:00 2024-11-29 2024-11-28T23:00 " +
				"2024-12-29 2024-12-28T23:00 2025-01-29 2025-01-28T23:00 2025-02-28 2025-02-27T23:00 2025-03-29 2025-03-28T23:00", "2025-04-28T22:00",
		},
		"half past two is left out": {
			"Europe/Berlin", "2026-01-29 2026-01-29T01:30 2026-02-28 2026-02-28T01:30 2026-03-29 2026-03-29T01:00 2026-04-29 2026-04-29T00:30", "2026-05-29T00:30",
		},
		"half past two comes twice": {
			"Europe/Berlin", "2026-09-25 2026-09-25T00:30 2026-10-25 2026-10-25T00:30 2026-11-25 2026-11-25T01:30", "2026-12-25T01:30",
		},
		"half past one in New York comes twice": {
			"America/New_York", "2026-10-01 2026-10-01T05:30 2026-11-01 2026-11-01T05:30 2026-12-01 2026-12-01T06:30", "2027-01-01T06:30",
		},
		"a quarter past two on Lord Howe Island is left out": {
			"Australia/Lord_Howe", "2026-09-04 2026-09-03T15:45 2026-10-04 2026-10-03T15:30 2026-11-04 2026-11-03T15:15", "2026-12-03T15:15",
		},
		"a quarter to six": {
			"Asia/Kathmandu", "2026-11-22 2026-11-21T18:15 2026-12-22 2026-12-21T18:15", "2027-01-21T18:15",
		},
		"midnight is left out": {
			"America/Sao_Paulo", "2018-10-04 2018-10-04T03:00 2018-11-04 2018-11-04T03:00 2018-12-04 2018-12-04T02:00", "2019-01-04T02:00",
		},
		"before a whole day is left out": {
			"Pacific/Apia", "2011-10-31 2011-10-31T10:00 2011-11-30 2011-11-30T10:00 2011-12-31 2011-12-30T10:00 2012-01-31 2012-01-30T10:00", "2012-02-28T10:00",
		},
	}
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			schedule, err := usage.NewSchedule(usage.Anniversary, r.zone)
			require.NoError(t, err)
			schedule.Anchor = utc(t, strings.Fields(r.periods)[1])
			requireRun(t, schedule, r)
		})
	}
}

// walker cuts time into periods by looking at a clock on the wall, minute by
// minute: a period begins when the clock first shows what it is named after.
type walker struct {
	label func(wall time.Time, offset int) string
	turns bool // the clock may show again what it has shown, in another period

	last    string
	periods []usage.Period
}

func (w *walker) tick(at, wall time.Time, offset int) {
	label := w.label(wall, offset)
	if label == w.last || !w.turns && label < w.last {
		return
	}
	w.last = label
	if n := len(w.periods); n > 0 {
		w.periods[n-1].End = usage.TimeOf(at)
	}
	w.periods = append(w.periods, usage.Period{ID: label, Start: usage.TimeOf(at)})
}

// isoWeek names the week of a date by its Thursday: the week has the year of
// that day, and as many weeks have begun as it has Thursdays up to it.
func isoWeek(wall time.Time) string {
	thursday := wall.AddDate(0, 0, 3-(int(wall.Weekday())+6)%7)
	return fmt.Sprintf("%04d-W%02d", thursday.Year(), (thursday.YearDay()+6)/7)
}

func walkers() map[usage.Kind]*walker {
	named := func(layout string) func(time.Time, int) string {
		return func(wall time.Time, _ int) string { return wall.Format(layout) }
	}
	return map[usage.Kind]*walker{
		usage.Hour: {turns: true, label: func(wall time.Time, offset int) string {
			sign, minutes := '+', offset/60
			if offset < 0 {
				sign, minutes = '-', -minutes
			}
			return fmt.Sprintf("%s%c%02d:%02d", wall.Format("2006-01-02T15"), sign, minutes/60, minutes%60)
		}},
		usage.Day:     {label: named("2006-01-02")},
		usage.Week:    {label: func(wall time.Time, _ int) string { return isoWeek(wall) }},
		usage.Month:   {label: named("2006-01")},
		usage.Quarter: {label: func(wall time.Time, _ int) string { return fmt.Sprintf("%d-Q%d", wall.Year(), (wall.Month()+2)/3) }},
		usage.Year:    {label: named("2006")},
	}
}

// Schedules cut time where somebody would who looks at a clock on the wall all
// the time.
func TestPeriodsAgainstAClockOnTheWall(t *testing.T) {
	t.Parallel()

	walks := []struct {
		zone string
		from time.Time
		days int
	}{
		{"UTC", time.Date(2023, 12, 20, 0, 0, 0, 0, time.UTC), 400},
		{"Europe/Berlin", time.Date(2025, 12, 20, 0, 0, 0, 0, time.UTC), 400},
		{"America/New_York", time.Date(2025, 12, 20, 0, 0, 0, 0, time.UTC), 400},
		{"Australia/Lord_Howe", time.Date(2025, 12, 20, 0, 0, 0, 0, time.UTC), 400},
		{"Asia/Kathmandu", time.Date(1985, 12, 20, 0, 0, 0, 0, time.UTC), 400},
		{"Pacific/Apia", time.Date(2011, 12, 1, 0, 0, 0, 0, time.UTC), 400},
		{"America/Sao_Paulo", time.Date(2018, 1, 20, 0, 0, 0, 0, time.UTC), 400},
		{"America/St_Johns", time.Date(2010, 10, 20, 0, 0, 0, 0, time.UTC), 90},
		{"America/Havana", time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC), 30},
		{"Asia/Beirut", time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC), 40},
	}
	for _, walk := range walks {
		t.Run(walk.zone, func(t *testing.T) {
			t.Parallel()

			zone, err := time.LoadLocation(walk.zone)
			require.NoError(t, err)
			all := walkers()
			var hour time.Time // what the clock showed, without minutes: nothing is named after those
			var before int
			for minute := range walk.days * 24 * 60 {
				at := walk.from.Add(time.Duration(minute) * time.Minute)
				local := at.In(zone)
				_, offset := local.Zone()
				wall := at.Add(time.Duration(offset) * time.Second)
				if shown := wall.Truncate(time.Hour); shown.Equal(hour) && offset == before {
					continue
				}
				hour, before = wall.Truncate(time.Hour), offset
				for _, w := range all {
					w.tick(at, wall, offset)
				}
			}
			for kind, w := range all {
				schedule, err := usage.NewSchedule(kind, walk.zone)
				require.NoError(t, err)
				// The first had begun before the walk, and the last has not ended.
				require.Equal(t, w.periods[0].ID, schedule.At(usage.TimeOf(walk.from)).ID)
				for _, want := range w.periods[1:] {
					want.Timezone = walk.zone
					got := schedule.At(want.Start)
					if want.End == 0 {
						want.End = got.End
					}
					require.Equal(t, want, got, kind)
				}
			}
		})
	}
}

// Anniversaries begin when a clock on the wall first shows the anchor's time on
// its day of the month, or on the last day of a month that lacks it.
func TestAnniversariesAgainstAClockOnTheWall(t *testing.T) {
	t.Parallel()

	for _, walk := range []struct {
		zone   string
		anchor time.Time
	}{
		{"UTC", time.Date(2023, 10, 31, 9, 30, 0, 0, time.UTC)},
		{"UTC", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"Europe/Berlin", time.Date(2026, 1, 29, 1, 30, 0, 0, time.UTC)},
		{"America/New_York", time.Date(2026, 1, 8, 7, 15, 0, 0, time.UTC)},
		{"Australia/Lord_Howe", time.Date(2026, 1, 4, 15, 10, 0, 0, time.UTC)},
		{"America/Sao_Paulo", time.Date(2018, 1, 4, 2, 0, 0, 0, time.UTC)},
		{"America/Sao_Paulo", time.Date(2018, 1, 18, 1, 30, 0, 0, time.UTC)},
		{"Pacific/Apia", time.Date(2011, 8, 30, 12, 0, 0, 0, time.UTC)},
		{"Pacific/Apia", time.Date(2011, 9, 1, 9, 0, 0, 0, time.UTC)},
	} {
		t.Run(fmt.Sprintf("%s %s", walk.zone, walk.anchor.Format(time.RFC3339)), func(t *testing.T) {
			t.Parallel()

			schedule, err := usage.NewSchedule(usage.Anniversary, walk.zone)
			require.NoError(t, err)
			schedule.Anchor = usage.TimeOf(walk.anchor)
			zone, err := time.LoadLocation(walk.zone)
			require.NoError(t, err)

			wallOf := func(at time.Time) time.Time {
				_, offset := at.In(zone).Zone()
				return at.Add(time.Duration(offset) * time.Second)
			}
			first := wallOf(walk.anchor)
			target := func(n int) time.Time {
				begin := time.Date(first.Year(), first.Month()+time.Month(n), 1, first.Hour(), first.Minute(), 0, 0, time.UTC)
				day := min(first.Day(), begin.AddDate(0, 1, -1).Day())
				return begin.AddDate(0, 0, day-1)
			}
			var starts []usage.Time
			for at := walk.anchor; len(starts) < 14; at = at.Add(time.Minute) {
				if !wallOf(at).Before(target(len(starts))) {
					starts = append(starts, usage.TimeOf(at))
				}
			}
			for n := range starts[1:] {
				got := schedule.At(starts[n])
				shown := wallOf(starts[n].Std()).Format(time.DateOnly)
				require.Equal(t, usage.Period{ID: shown, Start: starts[n], End: starts[n+1], Timezone: walk.zone}, got)
			}
		})
	}
}
