package tundev
