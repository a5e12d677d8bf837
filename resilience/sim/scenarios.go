package main

import (
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// The world of "Metastable Failures in the Wild" at its smallest: a server that
// can do 300 requests per second is asked for 280 (93 %), its clients wait a
// second and try three more times, and for ten seconds it does nothing.
const (
	capacity    = 300
	offered     = 280
	timeout     = time.Second
	attempts    = 4
	budgetRatio = 0.1
	stallAt     = 20 * time.Second
	stallLength = 10 * time.Second
)

// Configuration is one way to build client and server.
type Configuration struct {
	Name   string
	Label  string // what one reads in the plot
	Server ServerConfig
	Client func() (client, error)
}

func plain(attempts int) func() (client, error) {
	return func() (client, error) { return &plainClient{timeout: timeout, attempts: attempts}, nil }
}

func inFlight() func() (client, error) {
	return func() (client, error) {
		return &plainClient{timeout: timeout, attempts: attempts, budget: &inFlightBudget{share: budgetRatio}}, nil
	}
}

func deposits(successShare float64) func() (client, error) {
	return func() (client, error) {
		b, err := newLibraryBudget(successShare)
		return &plainClient{timeout: timeout, attempts: attempts, budget: b}, err
	}
}

// library is the library's client. A nil config means its defaults.
func library(cfg *resilience.Config) func() (client, error) {
	return func() (client, error) { return newPipelineClient(cfg) }
}

// oneSecond is the library's client with the timeout of the other clients, and
// otherwise its defaults.
func oneSecond() *resilience.Config {
	return &resilience.Config{Deadline: resilience.DeadlineConfig{Attempt: timeout}}
}

// budgetOnly is the library's retry with its budget: nothing else keeps calls
// from being sent.
func budgetOnly() *resilience.Config {
	c := oneSecond()
	c.Retry.MaxAttempts = attempts
	c.Breaker.Off, c.Bulkhead.Off = true, true
	return c
}

func configurations() []Configuration {
	server := func(change func(*ServerConfig)) ServerConfig {
		c := ServerConfig{PerSecond: capacity}
		if change != nil {
			change(&c)
		}
		return c
	}
	fifo := server(nil)
	shedding := server(func(c *ServerConfig) { c.Shedder = &resilience.ShedderConfig{} })
	dropping := func(margin time.Duration) ServerConfig {
		return server(func(c *ServerConfig) { c.DropExpired, c.Margin = true, margin })
	}
	bounded := server(func(c *ServerConfig) { c.MaxQueue = 100 })
	lifo := server(func(c *ServerConfig) { c.Order = LIFO })
	return []Configuration{
		{"no-retries", "No retries", fifo, plain(1)},
		{"retries", "3 retries, no budget", fifo, plain(attempts)},
		{"in-flight", "3 retries, budget of calls in flight", fifo, inFlight()},
		{"deposits", "3 retries, 10 % of the calls", fifo, deposits(-1)},
		{"successes", "3 retries, 10 % of the successes", fifo, deposits(1)},
		{"late", "same; server drops what is late", dropping(0), deposits(-1)},
		{"margin", "same; server drops what will be late", dropping(20 * time.Millisecond), deposits(-1)},
		{"bounded", "same; server has a queue of 100", bounded, deposits(-1)},
		{"lifo", "same; server takes the newest first", lifo, deposits(-1)},
		{"budget", "Napkin: retry and budget alone", fifo, library(budgetOnly())},
		{"client", "Napkin: client alone", fifo, library(oneSecond())},
		{"server", "Napkin: server alone; 3 retries", shedding, plain(attempts)},
		{"both", "Napkin: client and server", shedding, library(oneSecond())},
		{"untouched", "Napkin: both, no timeout set", shedding, library(nil)},
	}
}

func configuration(name string) Configuration {
	for _, c := range configurations() {
		if c.Name == name {
			return c
		}
	}
	panic("no configuration " + name)
}

// stallScenario is the world above, run until a time after the stall.
func stallScenario(c Configuration, seed uint64, after time.Duration) Scenario {
	return Scenario{
		Seed: seed, Server: c.Server, Client: c.Client,
		Streams: []Stream{{offered, resilience.Critical}},
		StallAt: stallAt, Stall: stallLength,
		Until: stallAt + stallLength + after,
	}
}

// overload is ten times what the server can do, from ten clients: two thirds of
// the capacity are critical, the rest is not.
var overload = []Stream{{200, resilience.Critical}, {10*capacity - 200, resilience.Sheddable}}

// overloadScenario is that load.
func overloadScenario(c Configuration, seed uint64) Scenario {
	return Scenario{
		Seed: seed, Server: c.Server, Client: c.Client, Clients: 10,
		Streams: overload, Until: overloadFrom + overloadLength + 2*time.Second,
	}
}

// What is judged begins once policies have found their place, and ends before
// the load does.
const (
	overloadFrom   = 5 * time.Second
	overloadLength = 20 * time.Second
)

// inOverload names the configurations that are also put under overload.
var inOverload = []string{"no-retries", "retries", "late", "margin", "bounded", "client", "server", "both"}
