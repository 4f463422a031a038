package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/test/faults/planted"
)

var errMissed = errors.New("planted bugs were not found")

// plant plants one bug after the other, and has the harness look for it.
func plant(ctx context.Context, args []string) error {
	var s settings
	f := flag.NewFlagSet("faults planted", flag.ContinueOnError)
	s.flags(f)
	rounds := f.Int("rounds", 3, "a bug that these many rounds do not find is missed")
	names := f.String("bugs", "", "names, with commas between them; by default all")
	if err := f.Parse(args); err != nil {
		return err
	}
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "planted-")
		if err != nil {
			return err
		}
		s.dir = dir
	}
	var (
		mu          sync.Mutex
		caught, all int
		missed      []string
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.worlds)
	for _, bug := range planted.Bugs() {
		if *names != "" && !slices.Contains(split(*names), bug.Name) {
			continue
		}
		all++
		g.Go(func() error {
			began := time.Now()
			found, err := s.hunt(ctx, &bug, *rounds)
			if err != nil {
				return fmt.Errorf("%s: %w", bug.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if found == "" {
				missed = append(missed, bug.Name)
				fmt.Printf("missed  %-22s %s (%s)\n", bug.Name, bug.What, time.Since(began).Round(time.Second))
				return nil
			}
			caught++
			fmt.Printf("caught  %-22s %s (%s): %.160q\n", bug.Name, bug.What, time.Since(began).Round(time.Second), found)
			return nil
		})
	}
	err := g.Wait()
	fmt.Printf("caught=%d of=%d\n", caught, all)
	if len(missed) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %v", errMissed, missed))
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(s.dir)
}

// hunt runs rounds against a meterd with a bug, and returns what was found
// first.
func (s settings) hunt(ctx context.Context, bug *planted.Bug, rounds int) (string, error) {
	s.dir = filepath.Join(s.dir, bug.Name)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", err
	}
	overlay, err := bug.Overlay(".", s.dir)
	if err != nil {
		return "", err
	}
	s.binary = filepath.Join(s.dir, "meterd")
	if err := build(ctx, s.binary, overlay); err != nil {
		return "", err
	}
	if bug.Few {
		s.round = 5
	}
	s.faults, s.kinds = s.round, ""
	r := runner{settings: s, only: bug.Kinds, began: time.Now(), impatient: true}
	seed := s.seed
	for range rounds {
		for (seed%2 == 0) != bug.Even || seed%3 == 0 { // those have JSON, and plain meters
			seed++
		}
		result, err := r.one(ctx, seed)
		if err != nil {
			return "", err
		}
		seed++
		if len(result.Violations) > 0 {
			return result.Violations[0], nil
		}
	}
	return "", nil
}
