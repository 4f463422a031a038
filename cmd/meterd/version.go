package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// What -ldflags "-X main.version=…" sets; nothing else changes them.
var (
	version = "dev"
	commit  = "unknown"
	date    = "unknown"
)

// build is what is known of this binary.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"` // of the commit
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// readBuild returns what the linker was told, and else what the Go command
// noted itself.
func readBuild() build {
	b := build{Version: version, Commit: commit, Date: date, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.complete(info)
	}
	return b
}

func (b *build) complete(info *debug.BuildInfo) {
	if v := info.Main.Version; b.Version == "dev" && v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && b.Commit == "unknown":
			b.Commit = s.Value
		case s.Key == "vcs.time" && b.Date == "unknown":
			b.Date = s.Value
		}
	}
}

func newVersionCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, its commit and what it was built with",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(*cobra.Command, []string) error {
		b := readBuild()
		if format.value == outputJSON {
			return env.writeJSON(b)
		}
		return env.writeTable(
			[]string{"meterd", b.Version},
			[]string{"commit", b.Commit},
			[]string{"date", b.Date},
			[]string{"go", b.Go + " " + b.OS + "/" + b.Arch},
		)
	}
	return cmd
}
