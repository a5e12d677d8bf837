package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// reports are the forms in which CI systems take results, beside the lines for people.
type reports struct {
	JUnit  string `name:"junit" placeholder:"FILE" help:"Write the results as JUnit XML, for GitLab, Jenkins and others."`
	GitHub bool   `name:"github" help:"Print what is wrong as annotations of GitHub Actions. On by default there."`
}

// outcome is one thing that was checked.
type outcome struct {
	Suite, Name string
	Seconds     float64
	Problem     string // empty: all is well
	Details     string
	Warning     bool // the problem fails nothing
	Skipped     bool
	File        string
	Line        int
	Column      int
}

func (o outcome) failed() bool { return o.Problem != "" && !o.Warning && !o.Skipped }

// write hands out the results. An unwritable file is an error, since a CI system would show a green run.
func (r reports) write(w io.Writer, all []outcome) error {
	if r.GitHub || os.Getenv("GITHUB_ACTIONS") == "true" {
		for _, o := range all {
			if o.Problem != "" && !o.Skipped {
				annotate(w, o)
			}
		}
	}
	if r.JUnit == "" {
		return nil
	}
	f, err := os.Create(r.JUnit)
	if err != nil {
		return err
	}
	err = junit(f, all)
	return errors.Join(err, f.Close())
}

// annotate prints one workflow command: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
func annotate(w io.Writer, o outcome) {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	level := "error"
	if o.Warning {
		level = "warning"
	}
	var properties []string
	if o.File != "" {
		properties = append(properties, "file="+property.Replace(o.File))
		if o.Line > 0 {
			properties = append(properties, fmt.Sprint("line=", o.Line))
		}
		if o.Column > 0 {
			properties = append(properties, fmt.Sprint("col=", o.Column))
		}
	}
	properties = append(properties, "title="+property.Replace(o.Suite+": "+o.Name))
	text := o.Problem
	if o.Details != "" {
		text += "\n" + o.Details
	}
	fmt.Fprintf(w, "::%s %s::%s\n", level, strings.Join(properties, ","), data.Replace(text))
}

// junit writes the dialect that Jenkins defined and the others read.
func junit(w io.Writer, all []outcome) error {
	type message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		File    string   `xml:"file,attr,omitempty"`
		Time    string   `xml:"time,attr"`
		Failure *message `xml:"failure"`
		Skipped *message `xml:"skipped"`
		Out     string   `xml:"system-out,omitempty"`
	}
	type testsuite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	var suites []*testsuite
	byName := map[string]*testsuite{}
	for _, o := range all {
		s := byName[o.Suite]
		if s == nil {
			s = &testsuite{Name: o.Suite}
			byName[o.Suite] = s
			suites = append(suites, s)
		}
		c := testcase{Class: o.Suite, Name: o.Name, File: o.File, Time: fmt.Sprintf("%.3f", o.Seconds)}
		s.Tests++
		switch {
		case o.Skipped:
			s.Skipped++
			c.Skipped = &message{Message: plain(o.Problem)}
		case o.failed():
			s.Failures++
			c.Failure = &message{plain(o.Problem), plain(o.Problem + "\n" + o.Details)}
		case o.Warning:
			c.Out = plain("warning: " + o.Problem)
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	err := e.Encode(struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []*testsuite `xml:"testsuite"`
	}{Suites: suites})
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// plain drops what XML 1.0 cannot carry, such as the escapes of coloured output.
func plain(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s))
}
