package tundev

var children = map[string]func() error{}
