// Package daemon is what every service's main does: flags, logger, signals, exit code.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
)

// Version of the program; set by the linker: -X github.com/twotier/twotier/services/internal/daemon.Version=0.1.0
var Version = "devel"

// Exit codes.
const (
	exitDone  = 0
	exitError = 1
	exitUsage = 2
)

// Process is what run is given.
type Process struct {
	Config
	Log     *zap.Logger
	Version string
}

// surroundings is what Main takes from the operating system.
type surroundings struct {
	args   []string
	env    func(string) (string, bool)
	out    io.Writer
	errors io.Writer
}

// Main is the whole of a service's main function: os.Exit(daemon.Main("l7-router", nil, run)).
//
// It reads the flags, and for those not given the environment (--grpc-listen is TWOTIER_GRPC_LISTEN), answers --version
// and --help, or does the subcommand health: ask the gRPC health service at --grpc-listen with the own certificate, exit
// code 0 or 1. Otherwise it calls run with a context that SIGINT or SIGTERM ends; a second signal kills. The exit code
// is 0, 1 after an error of run, or 2 for flags that cannot be.
//
// extra may be nil; it adds the service's own flags.
func Main(service string, extra func(*flag.FlagSet), run func(ctx context.Context, p *Process) error) int {
	return start(service, surroundings{args: os.Args[1:], env: os.LookupEnv, out: os.Stdout, errors: os.Stderr}, extra, run)
}

func start(service string, around surroundings, extra func(*flag.FlagSet), run func(ctx context.Context, p *Process) error) int {
	args := around.args
	askHealth := len(args) > 0 && args[0] == "health"
	if askHealth {
		args = args[1:]
	}
	config, showVersion, err := parse(service, args, around, extra)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		fmt.Fprintf(around.errors, "%s: %v\n", service, err)
		return exitUsage
	case showVersion:
		fmt.Fprintf(around.out, "%s %s\n", service, Version)
		return exitDone
	case askHealth:
		if err := config.checkHealth(context.Background()); err != nil {
			fmt.Fprintf(around.errors, "%s: health: %v\n", service, err)
			return exitError
		}
		return exitDone
	}
	log, err := config.validate(around.errors)
	if err != nil {
		fmt.Fprintf(around.errors, "%s: %v\n", service, err)
		return exitUsage
	}
	defer func() { _ = log.Sync() }() // a terminal or pipe cannot be synced, and says so

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// From the first signal on, a second one has its usual effect.
	context.AfterFunc(ctx, stop)

	log.Info("service starts", zap.String("version", Version))
	if err := run(ctx, &Process{Config: config, Log: log, Version: Version}); err != nil {
		log.Error("service ends with an error", zap.Error(err))
		return exitError
	}
	log.Info("service ends", logging.Reason("asked to"))
	return exitDone
}
