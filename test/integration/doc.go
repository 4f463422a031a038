// Package integration proves meterd on real parts: processes, a broker, Druid
// and a schema registry. It has no code of its own but tests, which run with
// the build tag integration and fail where the parts are missing.
package integration
