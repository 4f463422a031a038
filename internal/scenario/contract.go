package scenario

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// contractJSON and limitJSON are the keys of a contract, in the order in which
// they are written.
type contractJSON struct {
	ID       string      `json:"id"`
	Client   string      `json:"client"`
	StartsAt string      `json:"starts_at"`
	EndsAt   string      `json:"ends_at,omitempty"`
	Timezone string      `json:"timezone,omitempty"`
	Limits   []limitJSON `json:"limits"`
}

type limitJSON struct {
	ID          string            `json:"id"`
	Meter       string            `json:"meter"`
	Period      string            `json:"period,omitempty"`
	Timezone    string            `json:"timezone,omitempty"`
	Limit       string            `json:"limit"`
	Thresholds  []string          `json:"thresholds,omitempty"`
	Enforcement string            `json:"enforcement,omitempty"`
	Where       map[string]string `json:"where,omitempty"`
	Per         []string          `json:"per,omitempty"`
}

// parseContract reads what follows the word contract.
func (p *parser) parseContract(step *Step, text string) error {
	id, rest, ok := strings.Cut(text, " ")
	if !ok {
		return bad("contract ID CLIENT: LIMIT")
	}
	step.contract = id
	if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "{") {
		step.terms = json.RawMessage(rest)
		return nil
	}
	head, limits, ok := strings.Cut(rest, ": ")
	if !ok {
		head, limits = strings.TrimSuffix(rest, ":"), ""
	}
	c := contractJSON{ID: id, StartsAt: contractsFrom, Limits: []limitJSON{}}
	words := words(head)
	if len(words)%2 == 0 {
		return bad("contract ID CLIENT [from TIME] [until TIME] [in ZONE]: LIMIT")
	}
	c.Client = words[0]
	for words = words[1:]; len(words) > 0; words = words[2:] {
		switch words[0] {
		case "from", "until":
			at, err := p.instant(words[1])
			if err != nil {
				return err
			}
			if into := &c.StartsAt; words[0] == "from" {
				*into = text3339(at)
			} else {
				c.EndsAt = text3339(at)
			}
		case "in":
			c.Timezone = words[1]
		default:
			return bad("%q is none of from, until, in", words[0])
		}
	}
	for one := range strings.SplitSeq(limits, " and ") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		l, err := parseLimit(one)
		if err != nil {
			return err
		}
		c.Limits = append(c.Limits, l)
	}
	terms, err := json.Marshal(c)
	step.terms = terms
	return err
}

func text3339(t time.Time) string { return usage.TimeOf(t).String() }

func parseLimit(text string) (limitJSON, error) {
	words := words(text)
	if len(words) < 3 {
		return limitJSON{}, bad("limit %q: ID METER VALUE", text)
	}
	l := limitJSON{ID: words[0], Meter: words[1], Limit: words[2]}
	under := ""
	for _, w := range words[3:] {
		switch w {
		case "per", "in", "at", "where", "each":
			under = w
			continue
		case "soft", "hard":
			l.Enforcement = w
			continue
		}
		switch under {
		case "per":
			l.Period = w
		case "in":
			l.Timezone = w
		case "at":
			l.Thresholds = append(l.Thresholds, w)
		case "where":
			name, value, ok := strings.Cut(w, "=")
			if !ok {
				return l, bad("where NAME=VALUE, not %q", w)
			}
			if l.Where == nil {
				l.Where = map[string]string{}
			}
			l.Where[name] = strings.Trim(value, `"`)
		case "each":
			l.Per = append(l.Per, w)
		default:
			return l, bad("limit %q: %q", text, w)
		}
	}
	return l, nil
}
